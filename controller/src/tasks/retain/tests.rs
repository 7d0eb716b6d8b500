use std::sync::Mutex;

use crate::domain::policy::{PolicyDocument, RetentionDocument, ScheduleDocument};
use crate::store::policy::NewPolicy;
use crate::store::tests;

use super::*;

const WINDOW: Duration = Duration::from_secs(14 * 24 * 3600);

/// Two machines under a policy that keeps the newest point alone, of three that each has.
async fn store() -> Option<Store> {
    let store = tests::store().await?;
    tests::machines(&store, Uuid::new_v4(), 2).await;
    tests::execute(
        &store,
        "INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, disks, stored_bytes, serves_until)
         SELECT gen_random_uuid(), machines.id, seq, decode(repeat('00', 32), 'hex'), now(), 'crash', 'listed',
                '[{\"name\": \"data\"}]', 1, now() + seq * interval '1 second'
         FROM machines, generate_series(1, 3) seq",
    )
    .await;
    keep(&store, 1).await;
    Some(store)
}

/// Has the policy keep so many points.
async fn keep(store: &Store, last: u32) {
    let document = PolicyDocument {
        selector: [("env".to_owned(), "test".to_owned())].into(),
        schedule: ScheduleDocument { every: "1d".to_owned(), ..ScheduleDocument::default() },
        retention: RetentionDocument { last, ..RetentionDocument::default() },
        ..PolicyDocument::default()
    }
    .with_defaults();
    let new = NewPolicy { name: "few".to_owned(), document, etag: None, operator: "test".to_owned() };
    store.apply_policy(new).await.unwrap();
}

/// The sequence numbers that a pass would delete, of all machines; `answer` says what becomes of each.
async fn deleted(store: &Store, answer: fn(u64) -> Result<(), Refused>) -> Vec<u64> {
    let asked = Mutex::new(Vec::new());
    let delete = |point: CataloguedPoint, actor: String| {
        assert_eq!(actor, "policy few");
        asked.lock().unwrap().push(point.location.seq);
        async move { answer(point.location.seq) }
    };
    retain(store, WINDOW, delete).await.unwrap();
    let mut asked = asked.into_inner().unwrap();
    asked.sort_unstable();
    asked
}

#[tokio::test]
async fn nothing_is_deleted_while_a_policy_cannot_be_read() {
    let Some(store) = store().await else { return };
    tests::execute(
        &store,
        "INSERT INTO policies (id, name, spec) SELECT gen_random_uuid(), 'new', '{\"machines\": [\"other\"], \"weather\": \"fine\"}'",
    )
    .await;
    assert_eq!(deleted(&store, |_| Ok(())).await, [0; 0], "also of machines that it does not name");
    tests::execute(&store, "DELETE FROM policies WHERE name = 'new'").await;
    assert_eq!(deleted(&store, |_| Ok(())).await, [1, 1, 2, 2]);
}

fn refused(is_out_of_reach: bool) -> Result<(), Refused> {
    Err(Refused { reason: "on purpose".to_owned(), is_out_of_reach })
}

#[tokio::test]
async fn a_point_that_cannot_be_deleted_keeps_no_other_one() {
    let Some(store) = store().await else { return };
    assert_eq!(deleted(&store, |_| refused(false)).await, [1, 1, 2, 2]);
    assert_eq!(deleted(&store, |_| refused(true)).await.len(), 2, "one of each machine");
}

#[tokio::test]
async fn of_a_machine_that_is_removed_or_has_no_agent_yet_nothing_is_deleted() {
    let Some(store) = store().await else { return };
    let fleet = store.fleet().await.unwrap();
    store.remove_machine(MachineId(fleet[0].id), "test").await.unwrap();
    assert_eq!(deleted(&store, |_| Ok(())).await, [1, 2]);
    tests::execute(&store, "DELETE FROM agents").await;
    assert_eq!(deleted(&store, |_| Ok(())).await, [0; 0]);
}

#[tokio::test]
async fn nothing_is_deleted_once_the_removal_was_answered() {
    let Some(store) = store().await else { return };
    let asked = Mutex::new(Vec::new());
    let remove_at_the_first = |point: CataloguedPoint, _: String| {
        let machine = point.location.machine;
        asked.lock().unwrap().push(machine.0);
        let store = store.clone();
        async move {
            store.remove_machine(machine, "test").await.unwrap();
            Ok(())
        }
    };
    retain(&store, WINDOW, remove_at_the_first).await.unwrap();
    let mut asked = asked.into_inner().unwrap();
    assert_eq!(asked.len(), 2, "the second point of each machine is kept");
    asked.dedup();
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn nothing_is_deleted_by_a_policy_that_was_replaced() {
    let Some(store) = store().await else { return };
    let asked = Mutex::new(Vec::new());
    let keep_more_at_the_first = |point: CataloguedPoint, _: String| {
        asked.lock().unwrap().push(point.location.seq);
        let store = store.clone();
        async move {
            keep(&store, 3).await;
            Ok(())
        }
    };
    retain(&store, WINDOW, keep_more_at_the_first).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [1], "the one before the change, and none of the other machine");
}

#[tokio::test]
async fn a_point_that_is_the_newest_one_that_restores_by_now_is_kept() {
    let Some(store) = store().await else { return };
    let asked = Mutex::new(Vec::new());
    let damage_the_newest = |point: CataloguedPoint, _: String| {
        asked.lock().unwrap().push(point.location.seq);
        let store = store.clone();
        async move {
            tests::execute(
                &store,
                "UPDATE points SET state = 'damaged', damage = 'on purpose' WHERE seq = 3",
            )
            .await;
            Ok(())
        }
    };
    retain(&store, WINDOW, damage_the_newest).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [1, 1], "of each machine the second one is the newest now");
}

#[tokio::test]
async fn what_was_undeleted_stays_for_a_window() {
    let Some(store) = store().await else { return };
    tests::execute(&store, "UPDATE points SET undeleted_at = now() - interval '13 days' WHERE seq = 1").await;
    assert_eq!(deleted(&store, |_| Ok(())).await, [2, 2]);
    tests::execute(&store, "UPDATE points SET undeleted_at = now() - interval '15 days' WHERE seq = 1").await;
    assert_eq!(deleted(&store, |_| Ok(())).await, [1, 1, 2, 2]);
}
