//! Points that were found damaged, and those that were found whole again.

use serde_json::json;
use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use super::slot::LockedSlot;
use super::{During, Store, StoreError, audit};

/// A point that is not purged.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct KeptRow {
    pub(crate) id: Uuid,
    pub(crate) machine_name: String,
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
    pub(crate) decisions: i32,
    pub(crate) is_damaged: bool,
    /// How often it was found damaged, ever.
    pub(crate) damages: i32,
}

/// What is known of a point that is damaged.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct DamageRow {
    pub(crate) machine_name: String,
    /// `None`: it is not in the catalogue yet.
    pub(crate) point: Option<Uuid>,
    pub(crate) damage: Option<String>,
}

impl Store {
    pub(crate) async fn damage(&self, machine: MachineId, seq: i64) -> Result<DamageRow, StoreError> {
        sqlx::query_as(
            "SELECT m.name AS machine_name, p.id AS point, p.damage
             FROM machines m LEFT JOIN points p ON p.machine_id = m.id AND p.seq = $2 WHERE m.id = $1",
        )
        .bind(machine.0)
        .bind(seq)
        .fetch_one(&self.pool)
        .await
        .during("look what of a point is damaged")
    }

    pub(crate) async fn kept_points(&self, machine: MachineId) -> Result<Vec<KeptRow>, StoreError> {
        sqlx::query_as(
            "SELECT p.id, m.name AS machine_name, p.seq, p.hash, p.decisions, p.damage IS NOT NULL AS is_damaged,
                    p.damages
             FROM points p JOIN machines m ON m.id = p.machine_id
             WHERE p.machine_id = $1 AND p.state <> 'purged' ORDER BY p.seq",
        )
        .bind(machine.0)
        .fetch_all(&self.pool)
        .await
        .during("list the points that are kept of a machine")
    }

    /// What was damaged first is what is remembered. A point that is being recorded is waited for: it would not be marked. Answers
    /// whether there is such a point.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such machine.
    pub(crate) async fn mark_damaged(
        &self,
        machine: MachineId,
        seq: i64,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let reason = reason.to_owned();
        self.transaction("mark a point damaged", move |connection| {
            Box::pin(async move {
                let slot = LockedSlot::of_machine(connection, machine).await?;
                let marked: Option<(Uuid, bool)> = sqlx::query_as(
                    "WITH before AS (SELECT id, damage IS NULL AS is_first FROM points
                                     WHERE machine_id = $1 AND seq = $2 AND state <> 'purged' FOR UPDATE)
                     UPDATE points SET damage = coalesce(damage, $3), damages = damages + 1,
                            state = CASE state WHEN 'listed' THEN 'damaged' ELSE state END
                     FROM before WHERE points.id = before.id RETURNING points.id, before.is_first",
                )
                .bind(slot.machine.0)
                .bind(seq)
                .bind(&reason)
                .fetch_optional(&mut *connection)
                .await
                .during("mark a point damaged")?;
                let Some((id, is_first)) = marked else { return Ok(false) };
                if is_first {
                    let detail = json!({ "reason": reason });
                    audit::record(connection, "gateway", "point.damaged", &id.to_string(), detail).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Every byte that these points of a machine need was read and compared, after each had been found damaged so often: those
    /// that were called damaged then are not.
    pub(crate) async fn mark_sound(
        &self,
        machine: MachineId,
        sound: Vec<(i64, i32)>,
        actor: &str,
    ) -> Result<(), StoreError> {
        let (seqs, damages): (Vec<i64>, Vec<i32>) = sound.into_iter().unzip();
        let actor = actor.to_owned();
        self.transaction("mark points sound", move |connection| {
            Box::pin(async move {
                let healed: Vec<(Uuid, String)> = sqlx::query_as(
                    "WITH damaged AS (SELECT p.id, p.damage
                                      FROM points p JOIN unnest($2::bigint[], $3::integer[]) AS s (seq, damages)
                                           ON s.seq = p.seq AND s.damages = p.damages
                                      WHERE p.machine_id = $1 AND p.damage IS NOT NULL FOR UPDATE OF p)
                     UPDATE points SET damage = NULL, state = CASE state WHEN 'damaged' THEN 'listed' ELSE state END
                     FROM damaged WHERE points.id = damaged.id RETURNING points.id, damaged.damage",
                )
                .bind(machine.0)
                .bind(&seqs)
                .bind(&damages)
                .fetch_all(&mut *connection)
                .await
                .during("mark points sound")?;
                for (id, damage) in healed {
                    let detail = json!({ "was": damage });
                    audit::record(connection, &actor, "point.sound", &id.to_string(), detail).await?;
                }
                Ok(())
            })
        })
        .await
    }
}
