use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_proto::error::{ErrorDetail, detail_of};
use holdfast_restore::RestoreError;
use tonic::{Code, Status};

/// Why a command failed. Printed once, by [`CliError::report`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("the runtime does not start")]
    Runtime { source: io::Error },
    #[error("{what} is not set")]
    Missing { what: &'static str, action: String },
    #[error("{} cannot be read", path.display())]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("{} can be read by other users (mode {mode:03o})", path.display())]
    ExposedFile { path: PathBuf, mode: u32 },
    #[error("{} exists already", path.display())]
    FileExists { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("{} is not a configuration file: {detail}", path.display())]
    BadConfig { path: PathBuf, detail: String },
    #[error("{} is not a policy: {detail}", path.display())]
    BadPolicy { path: PathBuf, detail: String },
    #[error("{what} cannot be used: {detail}")]
    BadSetting { what: &'static str, detail: String },
    #[error("cannot reach the controller at {address}: {detail}")]
    Unreachable { address: String, detail: String, action: String },
    #[error("the connection to the controller was lost: {detail}")]
    Lost { detail: String },
    #[error("{}", .0.message)]
    Refused(Box<ErrorDetail>, Code),
    #[error(transparent)]
    Target(RestoreError),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot listen for signals")]
    Signals { source: io::Error },
    #[error("what the controller sent is not the disk: {detail}")]
    BadStream { detail: String },
    #[error("something is damaged; points that do not restore: {points}")]
    Damage { points: u64 },
    #[error("the job {state}")]
    JobEnded { state: String, detail: Option<Box<ErrorDetail>> },
    #[error("the answer cannot be printed")]
    Print { source: io::Error },
    #[error("the answer cannot be encoded: {detail}")]
    Encode { detail: String },
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        if is_away(&status)
            && let Some(cause) = std::error::Error::source(&status)
        {
            return Self::Lost { detail: chain(cause) };
        }
        Self::Refused(Box::new(detail_of(&status)), status.code())
    }
}

impl From<RestoreError> for CliError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Content(error) => Self::BadStream { detail: chain(&error) },
            error => Self::Target(error),
        }
    }
}

impl CliError {
    /// Prints the error and what to do next; answers the exit code: 2 for what is wrong with the call itself (an option, a
    /// setting, a file that it names), whether that is found here or by the controller; 1 for all else.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("error: {} ({})", chain(self).trim_end(), self.code());
        if let Some(action) = self.action() {
            eprintln!("  next: {action}");
        }
        match self {
            Self::Missing { .. }
            | Self::ReadFile { .. }
            | Self::ExposedFile { .. }
            | Self::BadConfig { .. }
            | Self::BadSetting { .. }
            | Self::BadPolicy { .. }
            | Self::Refused(_, Code::InvalidArgument) => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Runtime { .. } => "runtime",
            Self::Missing { .. } => "not_configured",
            Self::ReadFile { .. } => "file_not_readable",
            Self::ExposedFile { .. } => "file_exposed",
            Self::BadConfig { .. } | Self::BadSetting { .. } => "bad_configuration",
            Self::BadPolicy { .. } => "bad_policy",
            Self::Unreachable { .. } | Self::Lost { .. } => "unreachable",
            Self::Refused(detail, _) => &detail.code,
            Self::FileExists { .. } | Self::Target(RestoreError::Exists { .. }) => "target_exists",
            Self::Target(RestoreError::NotAFile { .. }) => "target_not_a_file",
            Self::Target(RestoreError::Busy { .. }) => "target_busy",
            Self::WriteFile { .. } | Self::Target(_) => "target_failed",
            Self::Damage { .. } => "damage_found",
            Self::Interrupted => "interrupted",
            Self::Signals { .. } => "signals",
            Self::BadStream { .. } => "bad_stream",
            Self::JobEnded { detail: Some(detail), .. } => &detail.code,
            Self::JobEnded { detail: None, .. } => "job_failed",
            Self::Print { .. } | Self::Encode { .. } => "output",
        }
    }

    fn action(&self) -> Option<String> {
        let action = match self {
            Self::Missing { action, .. } | Self::Unreachable { action, .. } => action.clone(),
            Self::Refused(detail, code) => match (detail.action.as_str(), code) {
                ("", Code::Unauthenticated) => {
                    "check the key in HOLDFAST_API_KEY_FILE; a new one is made by `holdfast-controller api-key create`"
                        .to_owned()
                }
                ("", Code::Unavailable) => "try again; if it stays so, look at the controller's log".to_owned(),
                (_, _) if detail.code == "no_certificate" => {
                    "this is the controller's port for agents: HOLDFAST_ADDRESS must name the one for operators (7444 \
                     unless configured otherwise)"
                        .to_owned()
                }
                ("", Code::InvalidArgument) => "correct it, and try again; --help explains the command".to_owned(),
                (action, _) => action.to_owned(),
            },
            Self::Lost { .. } => "try again; if it stays so, look at the controller's log".to_owned(),
            Self::Damage { .. } => {
                "restore other points; the next backup of each machine is a full one, which heals what comes after".to_owned()
            }
            Self::Target(RestoreError::Exists { .. }) => "choose another file, or replace it with --overwrite".to_owned(),
            Self::FileExists { .. } => "choose another file: one that is there may hold a token that is still wanted".to_owned(),
            Self::Interrupted => "run it again: it starts from the beginning".to_owned(),
            Self::Target(RestoreError::NotAFile { .. }) => "give --to the name of a file".to_owned(),
            Self::Target(RestoreError::Busy { .. }) => "wait for the other restore, or choose another file".to_owned(),
            Self::WriteFile { .. } | Self::Target(_) => "check the folder, its permissions and its free space".to_owned(),
            Self::BadSetting { what: "the address", .. } => {
                "set HOLDFAST_ADDRESS, such as https://controller.example:7444".to_owned()
            }
            Self::BadSetting { what: "the CA certificate", .. } => {
                "set HOLDFAST_CA_FILE to a copy of the controller's pki/ca.pem".to_owned()
            }
            Self::BadSetting { .. } => {
                "set HOLDFAST_API_KEY_FILE; `holdfast-controller api-key create` makes a key".to_owned()
            }
            Self::BadConfig { .. } => "its keys are address, ca_file and api_key_file".to_owned(),
            Self::BadPolicy { .. } => "see docs/policies.md; `holdfast policy show NAME -o yaml` prints one".to_owned(),
            Self::ReadFile { .. } => "check the path and its permissions".to_owned(),
            Self::ExposedFile { path, .. } => format!("run `chmod 600 {}`", path.display()),
            Self::BadStream { .. } => "try again; if it stays so, restore with holdfast-vault".to_owned(),
            Self::JobEnded { detail, .. } => detail.as_ref().map(|detail| detail.action.clone()).unwrap_or_default(),
            _ => String::new(),
        };
        (!action.is_empty()).then_some(action)
    }
}

/// Whether the controller was not there: it says that it stops, or the connection broke, which has a cause on this side.
pub(crate) fn is_away(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// The messages of an error and of all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Transport errors repeat their cause in their own words, or say nothing.
        if text == "transport error" {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use holdfast_proto::error::{ErrorDetailExt as _, system_error};

    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            source: Option<Box<Link>>,
        }
        let link = |text, source: Option<Link>| Link { text, source: source.map(Box::new) };
        let refused = link("connection refused", None);
        let tcp = link("tcp connect error: connection refused", Some(refused));
        assert_eq!(chain(&link("transport error", Some(tcp))), "tcp connect error: connection refused");
        assert_eq!(chain(&link("no", Some(link("because", None)))), "no: because");
    }

    #[test]
    fn only_a_lost_controller_is_called_again() {
        assert!(is_away(&Status::unavailable("stops")));
        for code in [Code::NotFound, Code::Internal, Code::Unknown, Code::DataLoss] {
            assert!(!is_away(&system_error("said", "by the controller").into_status(code)), "{code}");
        }
        assert!(!is_away(&Status::not_found("x")));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(is_away(&Status::from_error(Box::new(broken))));
    }
}
