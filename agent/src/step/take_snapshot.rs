//! `take_snapshot`: hooks, the instant itself, and what consistency came out.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use holdfast_proto::error::{ErrorDetailExt as _, agent_error, user_error};
use holdfast_proto::ids::SnapshotId;
use holdfast_proto::v1::{Consistency, ErrorDetail, SnapshotTaken, step_report::Outcome};
use tokio::sync::oneshot;

use super::{RELEASE_LIMIT, Steps};
use crate::blocking::blocking;
use crate::config::OnFailure;
use crate::context::{Context, StepFailure};
use crate::crash_point::crash_point;
use crate::hooks::{HookError, OpenHooks};
use crate::snapshot::take::{Fresh, Order, prepare};
use crate::snapshot::undertaking::Undertaking;
use crate::snapshot::{Snapshot, SnapshotDisk, SnapshotError};

/// What freezing and cloning may take beyond the freeze limit: the watchdog's start, and thaws that are slow.
const TAKE_GRACE: Duration = Duration::from_secs(60);

/// What the hooks achieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiesced {
    Yes,
    No,
}

impl Steps {
    pub(super) async fn take_snapshot(
        &self,
        context: &Context,
        disk_names: Vec<String>,
        minimum: Consistency,
    ) -> Result<Outcome, StepFailure> {
        let mut warnings = Vec::new();
        let hooks = self.open_hooks(minimum, &mut warnings)?;
        // An earlier attempt whose report was lost holds the same disks.
        for released in self.snapshots.release_of_step(context.attempt.step) {
            let _ = tokio::time::timeout(RELEASE_LIMIT, released).await;
        }
        let undertaking = Undertaking::begin(self.snapshots.journals().clone(), context.attempt.step);
        let id = undertaking.id();
        let needed = self.needed(&hooks)?;
        let order = (disk_names, minimum, needed);

        let turn = tokio::select! {
            turn = self.hooks.turn() => turn,
            () = context.stop.cancelled() => return Err(StepFailure::Cancelled),
        };
        let quiesced = self.quiesce(context, id, &hooks).await;
        let taken = match &quiesced {
            Err(HookError::Stopped { .. }) => Err(StepFailure::Cancelled),
            Err(error) if self.must_not_fail(minimum) => Err(self.hook_failure(error, minimum).into()),
            _ => self.take(context, undertaking, order).await,
        };
        let taken_at = Utc::now();
        let woken = self.wake(id, &hooks, &quiesced).await;
        drop(turn);
        let mut fresh = match (taken, &woken) {
            (Err(error), Err(hook)) => {
                tracing::error!(snapshot = %id, error = %hook, "the application may be quiesced still");
                return Err(and_quiesced(error, hook));
            }
            (Err(error), Ok(_)) => return Err(error),
            (Ok(fresh), Err(hook)) if self.must_not_fail(minimum) => {
                return Err(discard(fresh, self.hook_failure(hook, minimum)).await);
            }
            (Ok(fresh), _) => fresh,
        };
        for failed in [quiesced.as_ref().err(), woken.as_ref().err()].into_iter().flatten() {
            warnings.push(failed.detail());
        }
        warnings.append(&mut fresh.warnings);
        let consistency = match (fresh.consistency, quiesced, woken) {
            (Consistency::FileSystem, Ok(Quiesced::Yes), Ok(Quiesced::Yes)) => Consistency::Application,
            (consistency, ..) => consistency,
        };
        if rank(consistency) < rank(minimum) {
            return Err(discard(fresh, not_reached(consistency, minimum)).await);
        }
        if context.stop.is_cancelled() {
            discard(fresh, not_reached(consistency, minimum)).await;
            return Err(StepFailure::Cancelled);
        }
        let snapshot = blocking(move || fresh.keep().map_err(|error| error.detail())).await?;
        let disks = snapshot.disks.iter().map(SnapshotDisk::to_wire).collect();
        self.snapshots.hold(snapshot);
        self.show(context, id, &hooks, &mut warnings).await?;
        crash_point("agent::snapshot_taken");
        Ok(Outcome::SnapshotTaken(SnapshotTaken {
            snapshot_id: id.to_string(),
            consistency: consistency.into(),
            disks,
            taken_at: Some(timestamp(taken_at)),
            warnings,
        }))
    }

    /// Checks the hooks, and whether they can be enough.
    fn open_hooks(
        &self,
        minimum: Consistency,
        warnings: &mut Vec<ErrorDetail>,
    ) -> Result<OpenHooks, StepFailure> {
        let hooks = match self.hooks.open() {
            Ok(hooks) => hooks,
            Err(error) if self.must_not_fail(minimum) => {
                return Err(self.hook_failure(&error, minimum).into());
            }
            Err(error) => {
                warnings.push(error.detail());
                OpenHooks::default()
            }
        };
        if minimum == Consistency::Application
            && (hooks.before_snapshot.is_none() || hooks.after_thaw.is_none())
        {
            return Err(user_error(
                "consistency_not_reached",
                "an application-consistent snapshot needs the hooks before_snapshot and after_thaw",
            )
            .action("configure both under [hooks] in agent.toml, or allow file_system consistency")
            .into());
        }
        Ok(hooks)
    }

    fn must_not_fail(&self, minimum: Consistency) -> bool {
        minimum == Consistency::Application || self.hooks.config().on_failure == OnFailure::Fail
    }

    fn hook_failure(&self, error: &HookError, minimum: Consistency) -> ErrorDetail {
        if self.hooks.config().on_failure == OnFailure::Fail {
            return error.detail();
        }
        let detail = not_reached(Consistency::FileSystem, minimum);
        ErrorDetail { message: format!("{}: {error}", detail.message), retryable: true, ..detail }
    }

    /// What must not be frozen: whoever writes to it while it is would wait for himself.
    fn needed(&self, hooks: &OpenHooks) -> Result<Vec<(String, File)>, StepFailure> {
        let failed = |error: std::io::Error| {
            agent_error("snapshot_failed", format!("cannot open what the agent needs: {error}")).retryable()
        };
        let state = File::open(&self.config.state_dir).map_err(failed)?;
        let mut needed = vec![("the agent's state directory".to_owned(), state)];
        for program in
            [&hooks.before_snapshot, &hooks.after_thaw, &hooks.after_snapshot].into_iter().flatten()
        {
            needed
                .push((format!("the hook {}", program.hook().name()), program.try_clone().map_err(failed)?));
        }
        Ok(needed)
    }

    async fn quiesce(
        &self,
        context: &Context,
        id: SnapshotId,
        hooks: &OpenHooks,
    ) -> Result<Quiesced, HookError> {
        let Some(program) = &hooks.before_snapshot else { return Ok(Quiesced::No) };
        self.hooks.quiesce(program, id, &context.stop).await.map(|()| Quiesced::Yes)
    }

    /// Whatever became of the snapshot, and also if the hook before it failed: it may have done half of its work.
    async fn wake(
        &self,
        id: SnapshotId,
        hooks: &OpenHooks,
        quiesced: &Result<Quiesced, HookError>,
    ) -> Result<Quiesced, HookError> {
        let woken = match &hooks.after_thaw {
            Some(program) if !matches!(quiesced, Err(HookError::Mark(_))) => {
                self.hooks.wake(program, id).await.map(|()| Quiesced::Yes)
            }
            _ => Ok(Quiesced::No),
        };
        // Otherwise `keep_awake` tries again.
        if woken.is_ok() {
            self.hooks.forget(id);
        }
        woken
    }

    async fn take(
        &self,
        context: &Context,
        undertaking: Undertaking,
        (disk_names, minimum, needed): (Vec<String>, Consistency, Vec<(String, File)>),
    ) -> Result<Fresh, StepFailure> {
        let limits = self.config.snapshot.clone();
        let (prepare_limit, take_limit) = (limits.prepare_limit, limits.freeze_limit + TAKE_GRACE);
        let inventory = Arc::clone(&self.inventory);
        let work = move || {
            let sources = inventory.select(&disk_names)?;
            if sources.is_empty() {
                return Err(user_error("no_disks", "this machine has no disks that could be backed up")
                    .action("name one under [[disk]] in agent.toml"));
            }
            let order = Order { sources, minimum, needed, limits };
            prepare(undertaking, order).map_err(|error| error.detail())
        };
        let stalled = SnapshotError::Stalled { limit_s: prepare_limit.as_secs() };
        let prepared = bounded(prepare_limit, stalled, work).await?;
        if context.stop.is_cancelled() {
            let _ = tokio::task::spawn_blocking(move || drop(prepared)).await;
            return Err(StepFailure::Cancelled);
        }
        Ok(bounded(take_limit, SnapshotError::Hung, || prepared.take().map_err(|error| error.detail()))
            .await?)
    }

    async fn show(
        &self,
        context: &Context,
        id: SnapshotId,
        hooks: &OpenHooks,
        warnings: &mut Vec<ErrorDetail>,
    ) -> Result<(), StepFailure> {
        let (Some(program), Some(snapshot)) = (&hooks.after_snapshot, self.snapshots.find(id)) else {
            return Ok(());
        };
        let snapshot: Arc<Snapshot> = snapshot;
        let failure = match self.hooks.show(program, &snapshot, &context.stop).await {
            Ok(()) => return Ok(()),
            Err(HookError::Stopped { .. }) => StepFailure::Cancelled,
            Err(error) if self.hooks.config().on_failure == OnFailure::Fail => error.detail().into(),
            Err(error) => {
                warnings.push(error.detail());
                return Ok(());
            }
        };
        drop(snapshot);
        let _ = self.snapshots.release(id).await;
        Err(failure)
    }
}

/// Does something that may hang on a disk. If it takes too long it goes on alone, and what comes out is dropped there,
/// where that may hang as well.
async fn bounded<T: Send + 'static>(
    limit: Duration,
    late: SnapshotError,
    work: impl FnOnce() -> Result<T, ErrorDetail> + Send + 'static,
) -> Result<T, ErrorDetail> {
    let (sender, receiver) = oneshot::channel();
    let thread = tokio::task::spawn_blocking(move || drop(sender.send(work())));
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => match thread.await {
            // Not further up: the application must still be woken.
            Err(panic) => {
                tracing::error!(%panic, "taking the snapshot panicked");
                Err(agent_error("internal", "the agent hit an internal error; see its log"))
            }
            Ok(()) => Err(late.detail()),
        },
        Err(_) => Err(late.detail()),
    }
}

async fn discard(fresh: Fresh, why: ErrorDetail) -> StepFailure {
    blocking(move || drop(fresh)).await;
    why.into()
}

/// A failure after which the application may stand still, which matters more.
fn and_quiesced(failure: StepFailure, hook: &HookError) -> StepFailure {
    match failure {
        StepFailure::Failed(mut detail) => {
            detail.message = format!("{}; and the application may be quiesced still: {hook}", detail.message);
            StepFailure::Failed(detail)
        }
        StepFailure::Cancelled => StepFailure::Cancelled,
    }
}

fn not_reached(reached: Consistency, minimum: Consistency) -> ErrorDetail {
    let message =
        format!("the snapshot is only {}-consistent, and {} is asked for", name(reached), name(minimum));
    user_error("consistency_not_reached", message)
        .action("see the warnings in the agent's log, or allow a lower consistency in the policy")
}

/// Higher is better. What an old controller does not say is what it always meant.
fn rank(consistency: Consistency) -> u8 {
    match consistency {
        Consistency::Crash => 0,
        Consistency::FileSystem | Consistency::Unspecified => 1,
        Consistency::Application => 2,
    }
}

fn name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "crash",
        Consistency::FileSystem | Consistency::Unspecified => "file-system",
        Consistency::Application => "application",
    }
}

fn timestamp(time: chrono::DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
