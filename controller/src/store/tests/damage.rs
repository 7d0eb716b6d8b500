use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::domain::point::PointState;

use super::claims::{claim_one, point};
use super::reports::{key, transfer};
use super::{machines, store};
use crate::store::attempt::AttemptEnd;
use crate::store::commit::{Begun, NewCommit, NewPoint};
use crate::store::slot::LockedSlot;
use crate::store::{Store, StoreError};

const NOW: Duration = Duration::ZERO;
const LEASE: Duration = Duration::from_secs(60);

/// A machine with a point.
pub(super) async fn backed_up(store: &Store) -> Result<(MachineId, NewPoint), StoreError> {
    let controller = Uuid::new_v4();
    let (machine, _) = machines(store, controller, 1).await[0];
    let made = point(machine, &transfer(store, controller, machine).await);
    store.record_point(made.clone(), NOW).await?;
    let release = claim_one(store, controller).await.unwrap();
    store.end_attempt(key(&release), AttemptEnd::Released, NOW).await?;
    Ok((machine, made))
}

/// Whoever looked for what else needs the damage did not see it.
#[tokio::test]
async fn what_is_built_on_a_point_that_was_found_damaged_meanwhile_is_damaged() {
    let Some(store) = store().await else { return };
    let (machine, base) = backed_up(&store).await.unwrap();
    let controller: Uuid =
        sqlx::query_scalar("SELECT controller_id FROM agent_sessions").fetch_one(&store.pool).await.unwrap();
    let step = transfer(&store, controller, machine).await;
    let made = NewPoint { seq: base.seq + 1, ..point(machine, &step) };
    let commit = NewCommit { seq: made.seq, base: Some(base.seq) };
    assert_eq!(store.begin_commit(step.step, step.attempt, commit, LEASE).await.unwrap(), Begun::Yes);
    store.mark_damaged(machine, base.seq, "a bit fell over").await.unwrap();
    store.record_point(made.clone(), NOW).await.unwrap();
    let row = store.find_point(made.id).await.unwrap();
    assert_eq!(row.state, PointState::Damaged);
    let kept = store.kept_points(machine).await.unwrap();
    assert_eq!(kept.iter().map(|point| point.damages).collect::<Vec<_>>(), [1, 1]);

    // It is whole after all: the base's damage was healed by it, or is in a disk that is gone.
    store.mark_sound(machine, vec![(made.seq, 1)], "alice").await.unwrap();
    assert_eq!(store.find_point(made.id).await.unwrap().state, PointState::Listed);

    // Known before: nothing begins on it, and what is built on nothing is not damaged for it.
    let release = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&release), AttemptEnd::Released, NOW).await.unwrap();
    let step = transfer(&store, controller, machine).await;
    let made = NewPoint { seq: base.seq + 2, ..point(machine, &step) };
    for _ in 0..2 {
        let commit = NewCommit { seq: made.seq, base: Some(base.seq) };
        let begun = store.begin_commit(step.step, step.attempt, commit, LEASE).await.unwrap();
        assert_eq!(begun, Begun::BaseDamaged);
    }
    assert!(store.unsettled_commits().await.unwrap().is_empty());
    let commit = NewCommit { seq: made.seq, base: None };
    assert_eq!(store.begin_commit(step.step, step.attempt, commit, LEASE).await.unwrap(), Begun::Yes);
    store.record_point(made.clone(), NOW).await.unwrap();
    assert_eq!(store.find_point(made.id).await.unwrap().state, PointState::Listed);
}

/// A point is recorded by one and found damaged by another one: whoever comes second sees it.
#[tokio::test]
async fn a_mark_waits_for_the_point_that_is_being_recorded() {
    let Some(store) = store().await else { return };
    let (machine, made) = backed_up(&store).await.unwrap();
    let (held, hold) = tokio::sync::oneshot::channel::<()>();
    let (told, tell) = tokio::sync::oneshot::channel();
    let other = store.clone();
    let recording = tokio::spawn(async move {
        let record = other.transaction("record a point", move |connection| {
            Box::pin(async move {
                LockedSlot::of_machine(connection, machine).await?;
                told.send(()).unwrap();
                drop(hold.await);
                Ok(())
            })
        });
        record.await.unwrap();
    });
    tell.await.unwrap();
    let marking = store.mark_damaged(machine, made.seq, "a bit fell over");
    let mut marking = std::pin::pin!(marking);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut marking).await.is_err());
    drop(held);
    assert!(marking.await.unwrap());
    recording.await.unwrap();
    assert_eq!(store.find_point(made.id).await.unwrap().state, PointState::Damaged);
    let unknown = MachineId(Uuid::new_v4());
    let refused = store.mark_damaged(unknown, 1, "of nobody").await.unwrap_err();
    assert!(matches!(refused, StoreError::NotFound { .. }), "{refused:?}");
    assert!(!store.mark_damaged(machine, made.seq + 1, "not recorded").await.unwrap());
    let of_nobody = store.record_point(NewPoint { machine: unknown, ..made }, NOW).await;
    assert!(matches!(of_nobody, Err(StoreError::NotFound { noun: "machine", .. })), "{of_nobody:?}");
}

/// What a verification read says nothing of what happened to it since.
#[tokio::test]
async fn damage_that_is_found_during_a_verification_stays() {
    let Some(store) = store().await else { return };
    let (machine, made) = backed_up(&store).await.unwrap();
    let begun = async || {
        let kept = store.kept_points(machine).await.unwrap();
        kept.into_iter().map(|point| (point.seq, point.damages)).collect::<Vec<_>>()
    };
    let state = async || store.find_point(made.id).await.unwrap().state;
    let verification = begun().await;
    store.mark_damaged(machine, made.seq, "a restore failed").await.unwrap();
    store.mark_sound(machine, verification, "alice").await.unwrap();
    assert_eq!(state().await, PointState::Damaged);

    // The same if it was called damaged before.
    let verification = begun().await;
    store.mark_damaged(machine, made.seq, "another restore failed").await.unwrap();
    store.mark_sound(machine, verification, "alice").await.unwrap();
    assert_eq!(state().await, PointState::Damaged);

    store.mark_sound(machine, begun().await, "alice").await.unwrap();
    assert_eq!(state().await, PointState::Listed);
    let audited: Vec<(String,)> =
        sqlx::query_as("SELECT action FROM audit WHERE action LIKE 'point.%' AND subject = $1 ORDER BY id")
            .bind(made.id.to_string())
            .fetch_all(&store.pool)
            .await
            .unwrap();
    let audited: Vec<&str> = audited.iter().map(|(action,)| action.as_str()).collect();
    assert_eq!(audited, ["point.create", "point.damaged", "point.sound"]);
}
