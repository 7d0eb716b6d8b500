//! The first message of a session: what the agent has, held against what the database says.

use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{AttemptVerdict, Verdict, Welcome};

use crate::app::App;
use crate::live::{Live, wire_attempt};
use crate::store::StoreError;

use super::wire::CheckedHello;

/// Adopts what is current and answers what the agent has to do about the rest.
pub(super) async fn reconcile(app: &App, live: &Live, hello: &CheckedHello) -> Result<Welcome, StoreError> {
    let lease = app.timing.agent_lost_after;
    let adopted = app.store.adopt(live.machine, app.controller_id, &hello.running, lease).await?;
    for attempt in &adopted {
        live.hand_over(*attempt);
    }
    let wanted = app.store.wanted_snapshots(live.machine).await?;
    let attempts = hello
        .running
        .iter()
        .map(|attempt| {
            let verdict = if adopted.contains(attempt) { Verdict::Adopt } else { Verdict::Abandon };
            AttemptVerdict { attempt: Some(wire_attempt(*attempt)), verdict: verdict.into() }
        })
        .collect();
    let remove_snapshot_ids = hello
        .snapshots
        .iter()
        .filter(|snapshot| !wanted.contains(snapshot) && !is_being_taken(hello, &adopted))
        .map(ToString::to_string)
        .collect();
    let heartbeat_interval = prost_duration(app.timing.heartbeat);
    Ok(Welcome { heartbeat_interval: Some(heartbeat_interval), attempts, remove_snapshot_ids })
}

/// A snapshot that nobody knows may be that of an adopted attempt whose report is still on its way.
fn is_being_taken(hello: &CheckedHello, adopted: &[(StepId, i64)]) -> bool {
    hello.running.iter().any(|attempt| adopted.contains(attempt))
}

fn prost_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
