use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tonic::Status;

use holdfast_proto::v1::{Job, StepKind, StepState, WatchJobRequest};

use crate::client::Client;
use crate::error::{CliError, is_away};
use crate::output::{Output, size};
use crate::view;

/// How long a controller may be away while a job is followed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Follows a job to its end, over restarts of the controller, and shows its progress on stderr.
pub(crate) async fn follow(
    client: &Client,
    output: Output,
    id: &str,
    mut changed: impl FnMut(&Job) -> Result<(), CliError>,
) -> Result<Job, CliError> {
    let mut display = Display::new(output);
    let mut away_since: Option<tokio::time::Instant> = None;
    loop {
        match watch(client, id, &mut display, &mut changed, &mut away_since).await {
            Ok(Some(job)) => return Ok(job),
            Ok(None) => {}
            Err(WatchError::Cli(error)) => return Err(error),
            Err(WatchError::Stream(status)) if !is_away(&status) => return Err(status.into()),
            Err(WatchError::Stream(status)) => {
                let since = *away_since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(status.into());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

enum WatchError {
    Stream(Status),
    Cli(CliError),
}

/// One stream; `None` if it ended before the job did.
async fn watch(
    client: &Client,
    id: &str,
    display: &mut Display,
    changed: &mut impl FnMut(&Job) -> Result<(), CliError>,
    away_since: &mut Option<tokio::time::Instant>,
) -> Result<Option<Job>, WatchError> {
    let request = WatchJobRequest { id: id.to_owned() };
    let mut stream = client.jobs().watch_job(request).await.map_err(WatchError::Stream)?.into_inner();
    while let Some(job) = stream.message().await.map_err(WatchError::Stream)? {
        *away_since = None;
        display.show(&job);
        changed(&job).map_err(WatchError::Cli)?;
        if job.ended_at.is_some() {
            display.clear();
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// A bar on a terminal, lines otherwise.
enum Display {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Display {
    fn new(output: Output) -> Self {
        if !output.draws_progress() {
            return Self::Lines { last: String::new() };
        }
        let bar = ProgressBar::new(0);
        let template =
            "{msg:16} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    fn show(&mut self, job: &Job) {
        let current = job.steps.iter().find(|step| {
            matches!(step.state(), StepState::Dispatched | StepState::Running | StepState::Pending)
        });
        // Of a job that failed the step that did, not the last one, which was skipped.
        let failed = job.steps.iter().find(|step| step.state() == StepState::Failed);
        let step = view::Step::from(current.or(failed).or(job.steps.last()).cloned().unwrap_or_default());
        match self {
            Self::Bar(bar) => {
                bar.set_message(if job.started_at.is_none() { "queued" } else { step.kind });
                if current.is_some_and(|step| step.kind() == StepKind::TransferData) {
                    bar.set_length(step.total_bytes);
                    bar.set_position(step.read_bytes);
                }
            }
            Self::Lines { last } => {
                let mut line = format!("{} {} {}", view::state_name(job.state()), step.kind, step.state);
                if step.total_bytes > 0 {
                    line.push_str(&format!(
                        " {}/{} read, {} changed, {} sent",
                        size(step.read_bytes),
                        size(step.total_bytes),
                        size(step.changed_bytes),
                        size(step.sent_bytes)
                    ));
                }
                if let Some(error) = step.error.as_ref().filter(|_| job.ended_at.is_none()) {
                    line.push_str(&format!("; before: {} ({})", error.message, error.code));
                }
                if *last != line {
                    eprintln!("{line}");
                    *last = line;
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
