use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use holdfast_proto::ids::MachineId;

use super::damage::backed_up;
use super::{execute, store};
use crate::store::standing::{DecidedRow, NewPointState, NewStanding, UNDELETE};

fn decided(machine: MachineId, seq: i64, state: NewPointState, by: &[(&str, &'static str)]) -> NewStanding {
    let events = (1..).zip(by).map(|(number, (actor, action))| DecidedRow {
        number,
        actor: (*actor).to_owned(),
        action,
        detail: json!({}),
    });
    let decisions = i32::try_from(by.len()).unwrap();
    NewStanding { machine, seq, state, decisions, lock: None, events: events.collect() }
}

/// Whoever tells of a decision first, it is audited as whoever decided it said: once, and also if another one followed before it was
/// told of.
#[tokio::test]
async fn each_decision_is_audited_once_whatever_followed() {
    let Some(store) = store().await else { return };
    let (machine, made) = backed_up(&store).await.unwrap();
    let now = Utc::now();
    let deleted = NewPointState::SoftDeleted { at: now, purge_after: now + Duration::from_secs(1) };
    let all = [
        ("alice", "point.delete"),
        ("bob", "point.undelete"),
        ("policy few", "point.delete"),
        ("garbage collection", "point.purge"),
    ];
    store.record_standing(decided(machine, made.seq, deleted, &all[..1])).await.unwrap();
    store.record_standing(decided(machine, made.seq, NewPointState::Purged, &all)).await.unwrap();
    for slow in
        [decided(machine, made.seq, deleted, &all[..3]), decided(machine, made.seq, deleted, &all[..1])]
    {
        store.record_standing(slow).await.unwrap();
    }
    let audited: Vec<(String, String)> = sqlx::query_as(
        "SELECT actor, action FROM audit WHERE subject = $1 AND action <> 'point.create' ORDER BY id",
    )
    .bind(made.id.to_string())
    .fetch_all(&store.pool)
    .await
    .unwrap();
    assert_eq!(audited, all.map(|(actor, action)| (actor.to_owned(), action.to_owned())));
    assert_eq!(store.kept_points(machine).await.unwrap().len(), 0, "it is purged");
}

#[tokio::test]
async fn the_latest_point_is_the_last_one_that_was_made_whatever_the_clocks_said() {
    let Some(store) = store().await else { return };
    let (machine, first) = backed_up(&store).await.unwrap();
    execute(
        &store,
        "INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, disks, stored_bytes, serves_until)
         SELECT gen_random_uuid(), machine_id, seq + 1, hash, created_at - interval '1 hour', consistency, state, disks, stored_bytes,
                serves_until
         FROM points",
    )
    .await;
    let latest = async || store.resolve_point(&format!("{machine}@latest")).await.unwrap().seq;
    assert_eq!(latest().await, first.seq + 1, "the first one's gateway had a clock that was ahead");
    execute(&store, "UPDATE points SET state = 'damaged' WHERE seq = (SELECT max(seq) FROM points)").await;
    assert_eq!(latest().await, first.seq);
}

#[tokio::test]
async fn when_a_deletion_was_taken_back_is_known_whatever_is_decided_next() {
    let Some(store) = store().await else { return };
    let (machine, made) = backed_up(&store).await.unwrap();
    let now = Utc::now();
    let deleted = NewPointState::SoftDeleted { at: now, purge_after: now + Duration::from_secs(1) };
    let all = [("policy few", "point.delete"), ("alice", UNDELETE), ("alice", "point.unlock")];
    let undeleted = async || {
        let row: (bool,) = sqlx::query_as("SELECT undeleted_at IS NOT NULL FROM points WHERE id = $1")
            .bind(made.id.0)
            .fetch_one(&store.pool)
            .await
            .unwrap();
        row.0
    };
    for (state, decisions, is_undeleted) in
        [(deleted, 1, false), (NewPointState::Kept, 2, true), (NewPointState::Kept, 3, true)]
    {
        store.record_standing(decided(machine, made.seq, state, &all[..decisions])).await.unwrap();
        assert_eq!(undeleted().await, is_undeleted, "after {decisions}");
    }
}
