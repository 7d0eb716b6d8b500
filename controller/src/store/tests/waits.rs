use std::time::{Duration, Instant};

use futures::FutureExt as _;
use uuid::Uuid;

use crate::store::attempt::{AttemptEnd, AttemptKey, Recorded};
use crate::store::session::{HeardSession, Over};
use crate::store::slot::LockedSlot;
use crate::store::waits::Waits;
use crate::store::{Store, StoreError};
use holdfast_proto::ids::MachineId;

use super::claims::{claim_one, taken};
use super::{machines, queue, store, store_that};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

/// Holds a machine's slot and does nothing more, as a controller that was stopped in the middle of it.
async fn hold(store: &Store, machine: MachineId) -> Result<(), StoreError> {
    store
        .transaction("hold a slot", move |connection| {
            Box::pin(async move {
                LockedSlot::of_machine(connection, machine).await?;
                std::future::pending().await
            })
        })
        .await
}

async fn until_held(store: &Store, machine: MachineId) {
    loop {
        let free: Option<(i32,)> =
            sqlx::query_as("SELECT 1 FROM machine_slots WHERE machine_id = $1 FOR UPDATE SKIP LOCKED")
                .bind(machine.0)
                .fetch_optional(&store.pool)
                .await
                .unwrap();
        if free.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_controller_that_was_stopped_lets_go_of_what_it_locked() {
    let waits = Waits {
        lock: Duration::from_millis(100),
        idle_in_transaction: Duration::from_secs(3),
        ..Waits::default()
    };
    let Some(store) = store_that(waits).await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    queue(&store, machine).await;
    let step = claim_one(&store, controller).await.unwrap();
    let start = Instant::now();
    let held = tokio::spawn({
        let store = store.clone();
        async move { hold(&store, machine).await }
    });
    until_held(&store, machine).await;

    let key = AttemptKey { step: step.step, attempt: step.attempt, machine: None };
    let refused = store.end_attempt(key, taken(), NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::Query { .. }) && !refused.is_out_of_reach(), "{refused:?}");
    let ended = async {
        loop {
            match store.end_attempt(key, AttemptEnd::Lost, NOW).await {
                Ok(recorded) => return recorded,
                Err(StoreError::Query { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, ended).await.expect("the slot is never free"), Recorded::Yes);
    assert!(start.elapsed() < waits.transaction / 2, "{:?}", start.elapsed());
    held.abort();
}

/// What a database that vanished never answers ends here, and no connection is left that waits for it.
#[tokio::test]
async fn a_transaction_that_takes_too_long_ends_with_its_connection() {
    let Some(store) = store().await else { return };
    let (machine, _) = machines(&store, Uuid::new_v4(), 1).await[0];
    let (tell, told) = tokio::sync::oneshot::channel();
    let hasty = Store { transaction_limit: Duration::from_secs(2), ..store.clone() };
    let hangs = hasty.transaction("hang", move |connection| {
        Box::pin(async move {
            LockedSlot::of_machine(connection, machine).await?;
            let pid: (i32,) = sqlx::query_as("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap();
            tell.send(pid.0).unwrap();
            std::future::pending::<Result<(), StoreError>>().await
        })
    });
    let ended = tokio::time::timeout(LONG, hangs).await.expect("it hangs").unwrap_err();
    assert!(matches!(ended, StoreError::TimedOut { .. }) && ended.is_out_of_reach(), "{ended:?}");
    assert_eq!(tonic::Status::from(ended).code(), tonic::Code::Unavailable);
    let pid = told.await.unwrap();
    let gone = async {
        let there = "SELECT 1 FROM pg_stat_activity WHERE pid = $1";
        while sqlx::query(there).bind(pid).fetch_optional(&store.pool).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("the connection is still there");
    store.set_disks(machine, Vec::new()).await.unwrap();
    let locked = store.transaction("lock it", move |connection| {
        Box::pin(async move { LockedSlot::of_machine(connection, machine).await.map(drop) })
    });
    locked.await.unwrap();
}

#[tokio::test]
async fn who_lives_is_written_down_whoever_holds_a_session_or_a_step() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let both = machines(&store, controller, 2).await;
    let mut heard = Vec::new();
    for (machine, agent) in &both {
        queue(&store, *machine).await;
        heard.push(HeardSession { agent: *agent, epoch: 1, attempts: Vec::new() });
    }
    for step in store.claim_steps(controller, 10, NOW, 10).await.unwrap() {
        let session = heard.iter_mut().find(|session| session.agent == step.agent).unwrap();
        session.attempts.push((step.step, step.attempt));
    }
    sqlx::query("UPDATE agent_sessions SET last_seen_at = now() - interval '1 hour'")
        .execute(&store.pool)
        .await
        .unwrap();
    let (agent, step) = (both[0].1, heard[0].attempts[0].0);
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let holder = store.transaction("hold a session", move |connection| {
        Box::pin(async move {
            for (statement, id) in [
                ("UPDATE agent_sessions SET epoch = epoch + 1 WHERE agent_id = $1", agent.0),
                ("UPDATE steps SET progressed_at = now() WHERE id = $1", step.0),
            ] {
                sqlx::query(statement).bind(id).execute(&mut *connection).await.unwrap();
            }
            locked.send(()).unwrap();
            std::future::pending::<Result<(), StoreError>>().await
        })
    });
    let mut holder = Box::pin(holder.fuse());
    tokio::select! {
        _ = &mut holder => panic!("it is over"),
        locked = is_locked => locked.unwrap(),
    }
    let flush = store.record_liveness(controller, &heard, LONG);
    let over = tokio::time::timeout(Duration::from_secs(10), flush).await.expect("it waits").unwrap();
    assert_eq!(over, [], "the newer session is not there yet");
    let (seen, renewed): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM agent_sessions WHERE last_seen_at > now() - interval '1 minute'),
                (SELECT count(*) FROM steps WHERE lease_until > now())",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!((seen, renewed), (1, 1), "the other one's");
    let stale = [HeardSession { agent: both[1].1, epoch: 0, attempts: Vec::new() }];
    assert_eq!(
        store.record_liveness(controller, &stale, LONG).await.unwrap(),
        [(both[1].1, 0, Over::Superseded)]
    );
}

/// What was heard before a session ended is written down only after it.
#[tokio::test]
async fn a_session_that_is_over_stays_so_whatever_was_heard_of_it() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    queue(&store, machine).await;
    let heard = [HeardSession { agent, epoch: 1, attempts: Vec::new() }];
    assert_eq!(store.record_liveness(controller, &heard, LONG).await.unwrap(), []);
    store.close_session(agent, 1).await.unwrap();
    let over = store.record_liveness(controller, &heard, LONG).await.unwrap();
    assert_eq!(over, [(agent, 1, Over::Superseded)]);
    assert!(claim_one(&store, controller).await.is_none(), "nobody is there");
}

#[tokio::test]
async fn a_quarantined_machine_has_no_session_and_sends_nothing() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    queue(&store, machine).await;
    let take = claim_one(&store, controller).await.unwrap();
    let key = AttemptKey { step: take.step, attempt: take.attempt, machine: None };
    store.end_attempt(key, taken(), NOW).await.unwrap();
    let transfer = claim_one(&store, controller).await.unwrap();
    let may_send = async || store.authorise_transfer(agent, transfer.step, transfer.attempt).await;
    may_send().await.unwrap();
    store.quarantine(machine, "copied").await.unwrap();
    let refused = may_send().await;
    assert!(
        matches!(&refused, Err(StoreError::MachineQuarantined { reason }) if reason == "copied"),
        "{refused:?}"
    );
    let heard = [HeardSession { agent, epoch: 1, attempts: Vec::new() }];
    let over = store.record_liveness(controller, &heard, LONG).await.unwrap();
    assert_eq!(over, [(agent, 1, Over::Quarantined { reason: "copied".to_owned() })]);
    store.lift_quarantine(machine, "test").await.unwrap();
    may_send().await.unwrap();
    assert_eq!(store.record_liveness(controller, &heard, LONG).await.unwrap(), []);
}
