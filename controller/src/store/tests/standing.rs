use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use holdfast_proto::ids::MachineId;

use super::damage::backed_up;
use super::store;
use crate::store::standing::{DecidedRow, NewPointState, NewStanding};

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
