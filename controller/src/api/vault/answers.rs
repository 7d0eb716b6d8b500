use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;

/// Answers that may wait for the operator.
const OUTBOUND: usize = 8;
/// How long they may stay unread.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the answers of one call go.
pub(super) struct Answers<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    timeout: Duration,
}

/// The operator is gone, or does not read.
pub(super) struct Unread;

impl<T> Answers<T> {
    pub(super) fn new() -> (Self, mpsc::Receiver<Result<T, Status>>) {
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        (Self { sender, timeout: READ_TIMEOUT }, receiver)
    }

    pub(super) async fn send(&self, answer: Result<T, Status>) -> Result<(), Unread> {
        self.sender.send_timeout(answer, self.timeout).await.map_err(|_| Unread)
    }

    /// Nobody is there any more to read them.
    pub(super) async fn abandoned(&self) {
        self.sender.closed().await;
    }

    /// What waits for nobody: there will be newer.
    pub(super) fn offer(&self, answer: T) {
        let _ = self.sender.try_send(Ok(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operator_who_does_not_read_keeps_nothing_waiting() {
        let (mut answers, receiver) = Answers::<u32>::new();
        answers.timeout = Duration::from_millis(20);
        for number in 0..3 * OUTBOUND {
            answers.offer(u32::try_from(number).unwrap());
        }
        let last = tokio::time::timeout(Duration::from_secs(60), answers.send(Ok(7))).await;
        assert!(last.expect("it waits").is_err());
        drop(receiver);
        assert!(answers.send(Ok(7)).await.is_err());
    }
}
