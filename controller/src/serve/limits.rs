use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors below which a fleet of some size does not fit.
const SMALL: u64 = 16_384;

/// Lets this process open as many files and connections as the system allows it; the usual default of 1024 is less than
/// the agents of a small fleet.
pub(super) fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be raised");
        return;
    }
    match maximum {
        Some(limit) if limit < SMALL => {
            warn!(limit, "few files may be open at once; raise the hard limit (LimitNOFILE) for more agents");
        }
        limit => info!(?limit, "limit of open files"),
    }
}
