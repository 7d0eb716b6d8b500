//! The first message of a session: what the agent has, held against what the database says.

use holdfast_proto::v1::{AttemptVerdict, Verdict, Welcome};

use crate::app::App;
use crate::domain::job::StepKind;
use crate::live::{Live, wire_attempt};
use crate::store::StoreError;

use super::wire::CheckedHello;

/// Adopts what is current and answers what the agent has to do about the rest.
pub(super) async fn reconcile(app: &App, live: &Live, hello: &CheckedHello) -> Result<Welcome, StoreError> {
    let lease = app.timing.agent_lost_after;
    let adopted = app.store.adopt(live.machine, app.controller_id, &hello.running, lease).await?;
    for adopted in &adopted {
        live.hand_over(adopted.attempt);
    }
    // A snapshot that nobody knows may be one that is just being taken.
    let may_be_taken = adopted.iter().any(|adopted| adopted.kind == StepKind::TakeSnapshot);
    let wanted = app.store.wanted_snapshots(live.machine).await?;
    let attempts = hello
        .running
        .iter()
        .map(|attempt| {
            let is_adopted = adopted.iter().any(|adopted| adopted.attempt == *attempt);
            let verdict = if is_adopted { Verdict::Adopt } else { Verdict::Abandon };
            AttemptVerdict { attempt: Some(wire_attempt(*attempt)), verdict: verdict.into() }
        })
        .collect();
    let remove_snapshot_ids = hello
        .snapshots
        .iter()
        .filter(|snapshot| !wanted.contains(snapshot))
        .filter(|snapshot| !may_be_taken || hello.settled_snapshots.contains(snapshot))
        .map(ToString::to_string)
        .collect();
    let heartbeat_interval = prost_duration(app.timing.heartbeat);
    Ok(Welcome { heartbeat_interval: Some(heartbeat_interval), attempts, remove_snapshot_ids })
}

fn prost_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
