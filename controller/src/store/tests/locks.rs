use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::point::LockMode;
use crate::store::Store;
use crate::store::standing::{NewPointState, NewStanding};

use super::{MachineId, execute, machines, store};

fn in_hours(hours: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap() + TimeDelta::hours(hours)
}

async fn lock(
    store: &Store,
    machine: MachineId,
    seq: i64,
    decisions: i32,
    lock: Option<(LockMode, DateTime<Utc>)>,
) {
    let state = NewPointState::Kept;
    store
        .record_standing(NewStanding { machine, seq, state, decisions, lock, events: Vec::new() })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lock_is_looked_at_until_the_storage_retains_what_it_calls_for() {
    let Some(store) = store().await else { return };
    let machine = machines(&store, Uuid::new_v4(), 1).await[0].0;
    execute(
        &store,
        "INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, disks, stored_bytes, serves_until)
         SELECT gen_random_uuid(), m.id, n, sha256('x'), now(), 'crash', 'listed', '[]', 0, now()
         FROM machines m, generate_series(1, 3) n",
    )
    .await;
    let due = async || -> Vec<i64> {
        let rows = store.unenforced_locks().await.unwrap();
        assert!(rows.iter().all(|(of, _)| *of == machine.0));
        rows.into_iter().map(|(_, seq)| seq).collect()
    };
    assert_eq!(due().await, [0_i64; 0]);
    lock(&store, machine, 1, 1, Some((LockMode::Governance, in_hours(1)))).await;
    lock(&store, machine, 2, 1, Some((LockMode::Governance, in_hours(-1)))).await;
    lock(&store, machine, 3, 1, Some((LockMode::Compliance, in_hours(9)))).await;
    assert_eq!(due().await, [1, 3], "the second one is over");
    store.record_retention(machine, 1, (LockMode::Governance, in_hours(1))).await.unwrap();
    assert_eq!(due().await, [3]);
    lock(&store, machine, 1, 2, Some((LockMode::Governance, in_hours(2)))).await;
    assert_eq!(due().await, [1, 3], "it became longer");
    store.record_retention(machine, 1, (LockMode::Compliance, in_hours(2))).await.unwrap();
    store.record_retention(machine, 3, (LockMode::Governance, in_hours(9))).await.unwrap();
    assert_eq!(due().await, [3], "governance is not compliance");
    store.record_retention(machine, 3, (LockMode::Compliance, in_hours(9))).await.unwrap();
    lock(&store, machine, 1, 3, None).await;
    assert_eq!(due().await, [0_i64; 0]);
    let kept: (Option<String>,) = sqlx::query_as("SELECT retained_mode FROM points WHERE seq = 1")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(kept.0.as_deref(), Some("compliance"), "the storage knows of no unlocking");
}
