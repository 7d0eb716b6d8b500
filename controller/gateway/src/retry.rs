use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::warn;
use uuid::Uuid;

use holdfast_proto::error::{ErrorDetailExt as _, system_error};

/// Longest time for one answer of the control plane.
const ANSWER: Duration = Duration::from_secs(30);
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Asks the control plane something that may be asked again, until it answers: some seconds.
///
/// # Errors
/// What the last try answered; UNAVAILABLE if it did not answer at all.
pub(crate) async fn persistently<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match within(ask()).await {
            Err(status) if is_transient(&status) => {
                warn!(what, reason = status.message(), "the control plane is asked again");
            }
            answer => return answer,
        }
        tokio::time::sleep(jittered(wait)).await;
        wait *= 2;
    }
    within(ask()).await
}

/// Waits for one answer of the control plane.
pub(crate) async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(ANSWER, answer).await.unwrap_or_else(|_| {
        Err(system_error("control_plane_unavailable", "the control plane did not answer in time")
            .retryable()
            .action("try again; if it stays so, look at the controller's log and its database")
            .into_status(Code::Unavailable))
    })
}

fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Unknown)
}

/// Half to all of it.
fn jittered(wait: Duration) -> Duration {
    let random = u32::from(Uuid::new_v4().as_bytes()[0]);
    wait / 2 + wait * random / (2 * 255)
}
