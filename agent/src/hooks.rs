//! Hooks: programs that the machine's owner put there, run around a snapshot. Nothing that a controller says reaches
//! them but the snapshot's id.

mod program;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::SnapshotId;
use holdfast_proto::v1::ErrorDetail;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::HooksConfig;
use crate::durable;
use crate::snapshot::Snapshot;
pub(crate) use program::Program;

/// How soon, and at last how seldom, an application that could not be woken is woken again: it may stand still for that long.
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// A moment at which a program may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// To quiesce the application.
    BeforeSnapshot,
    /// To let it go on.
    AfterThaw,
    /// To look at the snapshot.
    AfterSnapshot,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BeforeSnapshot => "before_snapshot",
            Self::AfterThaw => "after_thaw",
            Self::AfterSnapshot => "after_snapshot",
        }
    }
}

/// The configured hooks.
#[derive(Debug, Clone)]
pub(crate) struct Hooks {
    config: HooksConfig,
    machine: String,
    /// Where it is kept in mind that an application is quiesced.
    marks: PathBuf,
    /// Held from before an application is quiesced until it was woken: one snapshot must not wake it in the middle of another.
    turn: Arc<Mutex<()>>,
    retries: Backoff,
}

/// The hooks of one snapshot, checked and open: what runs is what was checked.
#[derive(Debug, Default)]
pub(crate) struct OpenHooks {
    pub(crate) before_snapshot: Option<Program>,
    pub(crate) after_thaw: Option<Program>,
    pub(crate) after_snapshot: Option<Program>,
}

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("hook {}: {} is not run: {reason}", hook.name(), path.display())]
    Refused { hook: Hook, path: PathBuf, reason: String },
    #[error("hook {}: cannot start {}: {source}", hook.name(), path.display())]
    Start { hook: Hook, path: PathBuf, source: std::io::Error },
    #[error("hook {}: {} ended with {status}{}", hook.name(), path.display(), said(output))]
    Failed { hook: Hook, path: PathBuf, status: std::process::ExitStatus, output: String },
    #[error("hook {}: {} ran for more than {} s and was stopped{}", hook.name(), path.display(), limit.as_secs(), said(output))]
    TimedOut { hook: Hook, path: PathBuf, limit: Duration, output: String },
    #[error("hook {} was stopped, because the snapshot is not wanted any more", hook.name())]
    Stopped { hook: Hook },
    #[error("hook before_snapshot is not started: cannot keep in mind that the application is quiesced: {0}")]
    Mark(std::io::Error),
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; its last words: {output}") }
}

impl HookError {
    /// The error as the operator sees it.
    pub(crate) fn detail(&self) -> ErrorDetail {
        let message = self.to_string();
        match self {
            Self::Refused { .. } => user_error("hook_refused", message).action(
                "let the file and all directories above it belong to root and be writable by nobody else, without symbolic links",
            ),
            Self::TimedOut { .. } => user_error("hook_timed_out", message)
                .retryable()
                .action("see why it takes so long, or raise hooks.timeout in agent.toml"),
            Self::Start { .. } | Self::Failed { .. } | Self::Mark(_) | Self::Stopped { .. } => {
                user_error("hook_failed", message)
                    .retryable()
                    .action("see the agent's log for its output, and run it by hand")
            }
        }
    }
}

impl Hooks {
    pub(crate) fn new(config: HooksConfig, machine: String, marks: PathBuf) -> Self {
        let retries = Backoff::new(RETRY_MIN, RETRY_MAX);
        Self { config, machine, marks, turn: Arc::default(), retries }
    }

    /// Waits until no other snapshot has the application quiesced.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    pub(crate) fn config(&self) -> &HooksConfig {
        &self.config
    }

    /// Checks and opens all hooks, before any of them runs: an application is not quiesced if nothing could wake it.
    ///
    /// # Errors
    /// [`HookError::Refused`] for the first that may not be run.
    pub(crate) fn open(&self) -> Result<OpenHooks, HookError> {
        let open = |hook: Hook, path: &Option<PathBuf>| {
            path.as_ref().map(|path| Program::open(hook, path)).transpose()
        };
        Ok(OpenHooks {
            before_snapshot: open(Hook::BeforeSnapshot, &self.config.before_snapshot)?,
            after_thaw: open(Hook::AfterThaw, &self.config.after_thaw)?,
            after_snapshot: open(Hook::AfterSnapshot, &self.config.after_snapshot)?,
        })
    }

    /// Quiesces the application. Until it is woken a mark says so, for [`keep_awake`](Self::keep_awake).
    ///
    /// # Errors
    /// See [`HookError`]; the application may be quiesced all the same.
    pub(crate) async fn quiesce(
        &self,
        program: &Program,
        snapshot: SnapshotId,
        stop: &CancellationToken,
    ) -> Result<(), HookError> {
        durable::replace(&self.mark(snapshot), b"").map_err(HookError::Mark)?;
        self.run(program, snapshot, "", stop).await
    }

    /// Lets the application go on. Nothing stops it but its time limit.
    ///
    /// # Errors
    /// See [`HookError`].
    pub(crate) async fn wake(&self, program: &Program, snapshot: SnapshotId) -> Result<(), HookError> {
        self.run(program, snapshot, "", &CancellationToken::new()).await
    }

    /// Forgets that an application may be quiesced.
    pub(crate) fn forget(&self, snapshot: SnapshotId) {
        // If it stays, the application is woken once more.
        let _ = std::fs::remove_file(self.mark(snapshot));
    }

    /// Shows the snapshot to whom it may concern.
    ///
    /// # Errors
    /// See [`HookError`].
    pub(crate) async fn show(
        &self,
        program: &Program,
        snapshot: &Snapshot,
        stop: &CancellationToken,
    ) -> Result<(), HookError> {
        let mut disks = std::ffi::OsString::new();
        for disk in &snapshot.disks {
            disks.push(&disk.name);
            disks.push("\t");
            disks.push(&disk.path);
            disks.push("\n");
        }
        self.run(program, snapshot.id, disks, stop).await
    }

    /// Wakes the applications that an earlier process left quiesced, in a turn that it has before this returns; from then on whatever
    /// could not be woken is woken again. Runs until told to stop.
    pub(crate) fn keep_awake(self, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        let turn = Arc::clone(&self.turn).try_lock_owned();
        async move {
            for snapshot in self.left() {
                if stop.is_cancelled() {
                    return;
                }
                self.wake_left(snapshot).await;
            }
            drop(turn);
            let mut retries = self.retries.clone();
            while stop.run_until_cancelled(tokio::time::sleep(retries.next_wait())).await.is_some() {
                let left = self.left();
                if left.is_empty() {
                    retries.reset();
                }
                for snapshot in left {
                    // A turn for each: a snapshot waits for one hook at most. The mark of one that is in hand goes within its own.
                    let Some(_turn) = stop.run_until_cancelled(self.turn()).await else { return };
                    // One try that fails is enough for now: the others would ask the same application.
                    if self.mark(snapshot).try_exists().unwrap_or(true) && !self.wake_left(snapshot).await {
                        break;
                    }
                }
            }
        }
    }

    /// The snapshots for which an application may be quiesced.
    fn left(&self) -> Vec<SnapshotId> {
        std::fs::read_dir(&self.marks)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(MARK_SUFFIX)?.parse().ok())
            .collect()
    }

    /// Answers whether it woke.
    async fn wake_left(&self, snapshot: SnapshotId) -> bool {
        tracing::warn!(%snapshot, "an application was left quiesced; running after_thaw");
        let woken = match self.open() {
            Ok(OpenHooks { after_thaw: Some(program), .. }) => self.wake(&program, snapshot).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match woken {
            Ok(()) => {
                self.forget(snapshot);
                true
            }
            Err(error) => {
                tracing::error!(%snapshot, %error, "the application may be quiesced still; it is woken again");
                false
            }
        }
    }

    async fn run(
        &self,
        program: &Program,
        snapshot: SnapshotId,
        disks: impl Into<std::ffi::OsString>,
        stop: &CancellationToken,
    ) -> Result<(), HookError> {
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("HOLDFAST_HOOK", program.hook().name().into()),
            ("HOLDFAST_SNAPSHOT_ID", snapshot.to_string().into()),
            ("HOLDFAST_MACHINE", self.machine.clone().into()),
            ("HOLDFAST_DISKS", disks.into()),
        ];
        run::run(program, environment, self.config.timeout, stop).await
    }

    fn mark(&self, snapshot: SnapshotId) -> PathBuf {
        self.marks.join(format!("{snapshot}{MARK_SUFFIX}"))
    }
}

const MARK_SUFFIX: &str = ".quiesced";

#[cfg(test)]
mod tests;
