//! Points that were found damaged, and those that were found whole again.

use serde_json::json;
use uuid::Uuid;

use holdfast_proto::ids::{MachineId, PointId};

use super::{During, Store, StoreError, audit};

/// By what a point is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PointKey {
    Id(PointId),
    Seq(MachineId, i64),
}

impl Store {
    /// What was damaged first is what is remembered.
    pub(crate) async fn mark_damaged(&self, point: PointKey, reason: &str) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        let (id, machine, seq) = match point {
            PointKey::Id(id) => (Some(id.0), None, None),
            PointKey::Seq(machine, seq) => (None, Some(machine.0), Some(seq)),
        };
        self.transaction("mark a point damaged", move |connection| {
            Box::pin(async move {
                let marked: Option<(Uuid,)> = sqlx::query_as(
                    "UPDATE points SET damage = $4, state = CASE state WHEN 'listed' THEN 'damaged' ELSE state END
                     WHERE (id = $1 OR (machine_id = $2 AND seq = $3)) AND damage IS NULL AND state <> 'purged'
                     RETURNING id",
                )
                .bind(id)
                .bind(machine)
                .bind(seq)
                .bind(&reason)
                .fetch_optional(&mut *connection)
                .await
                .during("mark a point damaged")?;
                let Some((id,)) = marked else { return Ok(()) };
                let detail = json!({ "reason": reason });
                audit::record(connection, "gateway", "point.damaged", &id.to_string(), detail).await
            })
        })
        .await
    }

    /// Every byte that these points of a machine need was read and compared: those that were called damaged are not.
    pub(crate) async fn mark_sound(
        &self,
        machine: MachineId,
        seqs: Vec<i64>,
        actor: &str,
    ) -> Result<(), StoreError> {
        let actor = actor.to_owned();
        self.transaction("mark points sound", move |connection| {
            Box::pin(async move {
                let healed: Vec<(Uuid, String)> = sqlx::query_as(
                    "WITH damaged AS (SELECT id, damage FROM points
                                      WHERE machine_id = $1 AND seq = ANY($2) AND damage IS NOT NULL FOR UPDATE)
                     UPDATE points SET damage = NULL, state = CASE state WHEN 'damaged' THEN 'listed' ELSE state END
                     FROM damaged WHERE points.id = damaged.id RETURNING points.id, damaged.damage",
                )
                .bind(machine.0)
                .bind(&seqs)
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
