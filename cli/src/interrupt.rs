use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;

/// Ends the work at a signal: what it holds is let go, such as a file that is not complete.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let listen = |kind| signal(kind).map_err(|source| CliError::Signals { source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(CliError::Interrupted),
        _ = terminate.recv() => Err(CliError::Interrupted),
        _ = hang_up.recv() => Err(CliError::Interrupted),
    }
}
