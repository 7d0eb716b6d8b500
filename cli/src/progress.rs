//! How far something long is, on stderr: a bar on a terminal, otherwise a line from time to time.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::error::CliError;
use crate::output::Output;

/// Between two lines. What is over sooner has none.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How long the controller may say nothing while a check or a collection runs: it says how far it is every 30 s, or more often, as long
/// as the vault's storage answers.
const SILENCE: Duration = Duration::from_secs(300);

/// Cleared when it is dropped.
#[derive(Debug)]
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { last: String, told_at: Instant },
}

impl Progress {
    /// The template is the bar's.
    pub(crate) fn new(output: Output, template: &str) -> Self {
        if !output.draws_progress() {
            return Self::lines();
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    fn lines() -> Self {
        Self::Lines { last: String::new(), told_at: Instant::now() }
    }

    /// `line` says the same to who sees no bar.
    pub(crate) fn show(
        &mut self,
        (position, length): (u64, u64),
        message: String,
        line: impl FnOnce() -> String,
    ) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(length);
                bar.set_position(position);
                bar.set_message(message);
            }
            Self::Lines { .. } => {
                if let Some(line) = self.next_line(line) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// What has to be printed now.
    fn next_line(&mut self, line: impl FnOnce() -> String) -> Option<String> {
        let Self::Lines { last, told_at } = self else { return None };
        if told_at.elapsed() < LINE_EVERY {
            return None;
        }
        let line = line();
        if line == *last {
            return None;
        }
        *told_at = Instant::now();
        last.clone_from(&line);
        Some(line)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// The next message of a check or a collection; `None` at its end.
pub(crate) async fn next<T>(answers: &mut Streaming<T>) -> Result<Option<T>, CliError> {
    said(answers.message()).await
}

/// What the controller says, if it says anything.
pub(crate) async fn said<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, CliError> {
    match tokio::time::timeout(SILENCE, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CliError::Lost {
            detail: format!(
                "it said nothing for {} s: it hangs, or the vault's storage does not answer",
                SILENCE.as_secs()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_says_nothing_is_not_waited_for_for_ever() {
        let began = Instant::now();
        let error = said(std::future::pending::<Result<(), Status>>()).await.unwrap_err();
        assert!(matches!(&error, CliError::Lost { detail } if detail.contains("300 s")), "{error}");
        assert_eq!(began.elapsed(), SILENCE);
        assert_eq!(said(async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_from_time_to_time_and_only_with_news() {
        let mut progress = Progress::lines();
        let mut at = |text: &str| progress.next_line(|| text.to_owned());
        assert_eq!(at("1 of 9"), None, "what is over soon says nothing");
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(at("2 of 9").as_deref(), Some("2 of 9"));
        assert_eq!(at("3 of 9"), None);
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(at("2 of 9"), None);
        assert_eq!(at("4 of 9").as_deref(), Some("4 of 9"));
    }
}
