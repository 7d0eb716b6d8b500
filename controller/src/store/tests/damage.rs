use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use crate::domain::point::PointState;

use super::claims::{claim_one, point, taken};
use super::{machines, queue, store};
use crate::store::attempt::AttemptKey;
use crate::store::commit::NewPoint;
use crate::store::{Store, StoreError};

const NOW: Duration = Duration::ZERO;

/// A machine with a point.
pub(super) async fn backed_up(store: &Store) -> Result<(MachineId, NewPoint), StoreError> {
    let controller = Uuid::new_v4();
    let (machine, _) = machines(store, controller, 1).await[0];
    let _ = queue(store, machine).await;
    let step = claim_one(store, controller).await.unwrap();
    let key = AttemptKey { step: step.step, attempt: step.attempt, machine: None };
    store.end_attempt(key, taken(), NOW).await?;
    let made = point(machine, &claim_one(store, controller).await.unwrap());
    store.record_point(made.clone(), NOW).await?;
    Ok((machine, made))
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
