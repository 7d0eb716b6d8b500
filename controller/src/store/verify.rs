//! Whose turn it is to be verified.

use std::time::Duration;

use uuid::Uuid;

use holdfast_proto::ids::MachineId;

use super::{During, Store, StoreError};

/// A machine's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) machine: MachineId,
    verifier: Uuid,
    /// The segment up to which it was read in this turn already.
    pub(crate) read_to: Option<String>,
}

/// Whether the turn is still that of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Held {
    Yes,
    /// Another one has it: what was read counts, and nothing else is to be done.
    No,
}

impl Store {
    /// The machine that waited longest, if its turn has come; nobody else is given it for three hours after it was last renewed.
    ///
    /// A turn that began longer ago than the period begins anew: what was read then has to be read again.
    pub(crate) async fn claim_verification(&self, period: Duration) -> Result<Option<Turn>, StoreError> {
        let verifier = Uuid::new_v4();
        let row: Option<(Uuid, Option<String>)> = sqlx::query_as(
            "WITH due AS (
                 SELECT m.id, m.verified_to IS NOT NULL AND m.verify_began > now() - $1::interval AS goes_on
                 FROM machines m
                 WHERE coalesce(m.verified_at, m.enrolled_at) < now() - $1::interval
                   AND (m.verifying_since IS NULL OR m.verifying_since < now() - interval '3 hours')
                   AND EXISTS (SELECT 1 FROM points p WHERE p.machine_id = m.id AND p.state <> 'purged')
                 ORDER BY coalesce(m.verified_at, m.enrolled_at) LIMIT 1 FOR UPDATE SKIP LOCKED)
             UPDATE machines m SET verifying_since = now(), verifier = $2,
                    verify_began = CASE WHEN due.goes_on THEN m.verify_began ELSE now() END,
                    verified_to = CASE WHEN due.goes_on THEN m.verified_to END
             FROM due WHERE m.id = due.id RETURNING m.id, m.verified_to",
        )
        .bind(period)
        .bind(verifier)
        .fetch_optional(&self.pool)
        .await
        .during("find a machine to verify")?;
        Ok(row.map(|(id, read_to)| Turn { machine: MachineId(id), verifier, read_to }))
    }

    /// It is still at it.
    pub(crate) async fn renew_verification(&self, turn: &Turn) -> Result<Held, StoreError> {
        let set = "UPDATE machines SET verifying_since = now() WHERE id = $1 AND verifier = $2";
        self.turn("renew a verification", sqlx::query(set), turn).await
    }

    /// It was read up to this segment.
    pub(crate) async fn record_verified_to(&self, turn: &Turn, segment: &str) -> Result<Held, StoreError> {
        let set =
            "UPDATE machines SET verified_to = $3, verifying_since = now() WHERE id = $1 AND verifier = $2";
        let recorded = sqlx::query(set).bind(turn.machine.0).bind(turn.verifier).bind(segment);
        let done = recorded.execute(&self.pool).await.during("record how far a verification is")?;
        Ok(held(&done))
    }

    /// Nobody is at it any more; whoever claims it goes on where it was left.
    pub(crate) async fn leave_verification(&self, turn: &Turn) -> Result<Held, StoreError> {
        let set =
            "UPDATE machines SET verifying_since = NULL, verifier = NULL WHERE id = $1 AND verifier = $2";
        self.turn("leave a verification", sqlx::query(set), turn).await
    }

    /// All of it was read. The next turn is counted from the beginning of this one: what was read first has waited since.
    pub(crate) async fn end_verification(&self, turn: &Turn) -> Result<Held, StoreError> {
        let set = "UPDATE machines SET verified_at = verify_began, verify_began = NULL, verified_to = NULL,
                          verifying_since = NULL, verifier = NULL
                   WHERE id = $1 AND verifier = $2";
        self.turn("record a verification", sqlx::query(set), turn).await
    }

    async fn turn(
        &self,
        operation: &'static str,
        set: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        turn: &Turn,
    ) -> Result<Held, StoreError> {
        let done =
            set.bind(turn.machine.0).bind(turn.verifier).execute(&self.pool).await.during(operation)?;
        Ok(held(&done))
    }
}

fn held(done: &sqlx::postgres::PgQueryResult) -> Held {
    match done.rows_affected() {
        0 => Held::No,
        _ => Held::Yes,
    }
}
