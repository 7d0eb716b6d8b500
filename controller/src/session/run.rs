use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use holdfast_proto::error::{ErrorDetailExt as _, agent_error, system_error};
use holdfast_proto::ids::{AgentId, MachineId, StepId};
use holdfast_proto::v1::{AgentMessage, agent_message, controller_message};

use crate::app::App;
use crate::identity::revoked;
use crate::live::{Live, Outbound, superseded};
use crate::store::StoreError;
use crate::store::attempt::{AttemptEnd, AttemptKey};
use crate::store::session::{NewSession, Over};

use super::wire::{self, CheckedHello};
use super::{hello, report};

/// How long a new connection may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its Hello an agent has to hand in spooled reports before the attempts that it did not mention count as
/// lost.
const SPOOL_GRACE: Duration = Duration::from_secs(2);

/// Serves one session until either side ends it.
pub(crate) async fn run(
    app: Arc<App>,
    agent: AgentId,
    mut inbound: Streaming<AgentMessage>,
    outbound: Outbound,
) {
    let opened = tokio::select! {
        opened = open(&app, agent, &mut inbound, &outbound) => opened,
        () = app.shutdown.cancelled() => Err(stopping()),
    };
    let live = match opened {
        Ok(live) => live,
        Err(status) => {
            info!(%agent, code = ?status.code(), reason = status.message(), "session refused");
            let _ = outbound.send_timeout(Err(status), Duration::from_secs(1)).await;
            return;
        }
    };
    info!(%agent, machine = %live.machine, epoch = live.epoch, "session opened");
    let end = serve(&app, &live, &mut inbound).await;
    app.sessions.unregister(&live);
    if let Err(status) = end {
        info!(%agent, reason = status.message(), "session ended");
        live.close(status);
    }
    if let Err(error) = app.store.close_session(agent, live.epoch).await {
        warn!(%agent, error = &error as &dyn std::error::Error, "cannot mark an agent offline");
    }
}

async fn open(
    app: &Arc<App>,
    agent: AgentId,
    inbound: &mut Streaming<AgentMessage>,
    outbound: &Outbound,
) -> Result<Arc<Live>, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
    let Ok(Ok(Some(AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }))) = first else {
        return Err(agent_error("no_hello", "a session starts with Hello").into_status(Code::InvalidArgument));
    };
    let hello = wire::check_hello(hello)?;
    let machine = app.store.machine_of(agent).await?;
    refuse_quarantined(app, machine).await?;
    refuse_clone(app, agent).await?;

    // Before the session counts: what is claimed for it from now on is not suspect.
    let suspects = suspects(app, machine, &hello).await?;
    let epoch = app
        .store
        .open_session(NewSession {
            agent,
            machine,
            boot_id: hello.boot_id.clone(),
            version: hello.version.clone(),
            disks: hello.disks.clone(),
        })
        .await?;
    let live = Live::new(agent, machine, epoch, outbound.clone());
    let welcome = hello::reconcile(app, &live, &hello).await?;
    // Before it is registered, so that Welcome is the first message.
    live.send(controller_message::Kind::Welcome(welcome)).map_err(|_| stopping())?;
    app.sessions.register(&live);
    // From here on `run` closes the session; an attempt that is claimed for it finds it.
    if let Err(error) = app.store.activate_session(agent, epoch, app.controller_id).await {
        app.sessions.unregister(&live);
        return Err(error.into());
    }
    app.sessions.wake();
    if !suspects.is_empty() {
        app.tracker.spawn(lose(Arc::clone(app), Arc::clone(&live), suspects));
    }
    Ok(live)
}

async fn refuse_quarantined(app: &App, machine: MachineId) -> Result<(), Status> {
    match app.store.quarantine_of(machine).await? {
        Some(reason) => Err(quarantined(&reason)),
        None => Ok(()),
    }
}

/// A second Hello is usually a reboot or a broken connection; an old session that still answers after it is another
/// machine with the same identity.
async fn refuse_clone(app: &App, agent: AgentId) -> Result<(), Status> {
    match app.sessions.get(agent) {
        Some(old) => refuse_clone_of(app, &old).await,
        None => Ok(()),
    }
}

/// Quarantines the machine if the agent of a session in whose place another one wants to be, or is, still answers.
async fn refuse_clone_of(app: &App, old: &Live) -> Result<(), Status> {
    if !old.answers(rand::random(), app.timing.clone_ping).await {
        return Ok(());
    }
    let (agent, machine) = (old.agent, old.machine);
    let reason = "two machines run with one identity: the machine or its agent's state was copied";
    warn!(%agent, %machine, "clone detected: both are quarantined");
    app.store.quarantine(machine, reason).await?;
    let status = quarantined(reason);
    for live in app.sessions.of_machine(machine) {
        live.close(status.clone());
    }
    Err(status)
}

/// Ends a session that is over by the database. If that is because a newer one began in its place at another controller, and its agent still
/// answers, there are two.
pub(crate) async fn end_over(app: Arc<App>, live: Arc<Live>, why: Over) {
    if let Over::Quarantined { reason } = why {
        return live.close(quarantined(&reason));
    }
    // Another agent took the machine over: this one is no clone of it.
    if let Err(StoreError::NotFound { .. }) = app.store.machine_of(live.agent).await {
        return live.close(revoked(live.agent));
    }
    match refuse_clone_of(&app, &live).await {
        Ok(()) => live.close(superseded()),
        Err(status) => live.close(status),
    }
}

async fn suspects(app: &App, machine: MachineId, hello: &CheckedHello) -> Result<Vec<(StepId, i64)>, Status> {
    let mut out = app.store.attempts_out(machine).await?;
    out.retain(|attempt| !hello.running.contains(attempt));
    Ok(out)
}

/// Ends attempts that the agent knows nothing of, once it had time to hand in spooled reports.
async fn lose(app: Arc<App>, live: Arc<Live>, suspects: Vec<(StepId, i64)>) {
    tokio::select! {
        () = tokio::time::sleep(SPOOL_GRACE) => {}
        () = live.closed.cancelled() => return,
    }
    for (step, attempt) in suspects {
        let key = AttemptKey { step, attempt, machine: Some(live.machine) };
        match app.store.end_attempt(key, AttemptEnd::Lost, app.timing.retry_delay).await {
            Ok(_) => info!(%step, attempt, "attempt lost: its agent came back without it"),
            Err(error) => {
                warn!(%step, attempt, error = &error as &dyn std::error::Error, "cannot end a lost attempt")
            }
        }
    }
    app.sessions.wake();
}

async fn serve(
    app: &Arc<App>,
    live: &Arc<Live>,
    inbound: &mut Streaming<AgentMessage>,
) -> Result<(), Status> {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message?,
            () = live.closed.cancelled() => return Ok(()),
            () = app.shutdown.cancelled() => return Err(stopping()),
            () = tokio::time::sleep(app.timing.agent_lost_after) => {
                return Err(agent_error("agent_silent", "no heartbeat").retryable().into_status(Code::DeadlineExceeded));
            }
        };
        let Some(AgentMessage { kind }) = message else { return Ok(()) };
        live.note_heard();
        match kind {
            // An unknown kind comes from a newer agent: it counts as a heartbeat.
            Some(agent_message::Kind::Heartbeat(_)) | None => {}
            Some(agent_message::Kind::Pong(pong)) => live.note_pong(pong.nonce),
            Some(agent_message::Kind::Report(step_report)) => report::handle(app, live, step_report).await?,
            Some(agent_message::Kind::DisksChanged(changed)) => {
                let disks = wire::check_disks(changed.disks)?;
                app.store.set_disks(live.machine, disks).await?;
            }
            Some(agent_message::Kind::Hello(_)) => {
                return Err(
                    agent_error("second_hello", "Hello comes once").into_status(Code::InvalidArgument)
                );
            }
        }
    }
}

fn quarantined(reason: &str) -> Status {
    agent_error("machine_quarantined", format!("this machine is quarantined: {reason}"))
        .action(
            "on the copy, remove the agent's state directory and enrol it anew; then an operator lifts the quarantine with \
             `holdfast machine lift-quarantine`",
        )
        .into_status(Code::PermissionDenied)
}

fn stopping() -> Status {
    system_error("controller_stopping", "the controller stops").retryable().into_status(Code::Unavailable)
}
