use std::time::Duration;

use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId, SnapshotId, StepId};

use crate::domain::job::StepKind;
use crate::domain::snapshot::DiskRow;

use super::{During, Store, StoreError};

/// An agent's Hello.
#[derive(Clone, Debug)]
pub(crate) struct NewSession {
    pub(crate) agent: AgentId,
    pub(crate) machine: MachineId,
    pub(crate) boot_id: String,
    pub(crate) version: String,
    pub(crate) disks: Vec<DiskRow>,
}

/// A session that was heard of, with the attempts that were handed to it.
#[derive(Clone, Debug)]
pub(crate) struct HeardSession {
    pub(crate) agent: AgentId,
    pub(crate) epoch: i64,
    pub(crate) attempts: Vec<(StepId, i64)>,
}

/// Why a session is over by the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// A newer one began somewhere.
    Superseded,
    Quarantined {
        reason: String,
    },
}

/// An attempt that its agent runs and that is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdoptedRow {
    pub(crate) attempt: (StepId, i64),
    pub(crate) kind: StepKind,
}

/// Progress of an attempt, to be written with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgressUpdate {
    /// Whose session said so.
    pub(crate) machine: Uuid,
    pub(crate) step: Uuid,
    pub(crate) attempt: i64,
    pub(crate) sequence: i64,
    pub(crate) total_bytes: i64,
    pub(crate) read_bytes: i64,
    pub(crate) changed_bytes: i64,
    pub(crate) sent_bytes: i64,
}

impl Store {
    /// Why a machine is quarantined, if it is.
    pub(crate) async fn quarantine_of(&self, machine: MachineId) -> Result<Option<String>, StoreError> {
        let row: Option<(Option<String>,)> = sqlx::query_as("SELECT quarantine FROM machines WHERE id = $1")
            .bind(machine.0)
            .fetch_optional(&self.pool)
            .await
            .during("read a quarantine")?;
        Ok(row.and_then(|(reason,)| reason))
    }

    /// Begins a session and answers its epoch. Nothing is claimed for it before [`Store::activate_session`].
    /// Until then no controller holds the agent.
    pub(crate) async fn open_session(&self, new: NewSession) -> Result<i64, StoreError> {
        self.transaction("open a session", move |connection| {
            Box::pin(async move {
                let (epoch,): (i64,) = sqlx::query_as(
                    "UPDATE agent_sessions SET controller_id = NULL, epoch = epoch + 1, boot_id = $2, last_seen_at = now()
                     WHERE agent_id = $1 RETURNING epoch",
                )
                .bind(new.agent.0)
                .bind(&new.boot_id)
                .fetch_one(&mut *connection)
                .await
                .during("open a session")?;
                sqlx::query("UPDATE agents SET version = $2 WHERE id = $1 AND version <> $2")
                    .bind(new.agent.0)
                    .bind(&new.version)
                    .execute(&mut *connection)
                    .await
                    .during("record an agent's version")?;
                replace_disks(connection, new.machine, &new.disks).await?;
                Ok(epoch)
            })
        })
        .await
    }

    /// Lets steps be claimed for a session that can take them.
    pub(crate) async fn activate_session(
        &self,
        agent: AgentId,
        epoch: i64,
        controller: Uuid,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE agent_sessions SET controller_id = $3, last_seen_at = now() WHERE agent_id = $1 AND epoch = $2")
            .bind(agent.0)
            .bind(epoch)
            .bind(controller)
            .execute(&self.pool)
            .await
            .during("activate a session")?;
        Ok(())
    }

    /// Marks the agent offline, unless a newer session exists. What was heard of this one and is written down later opens it no more.
    pub(crate) async fn close_session(&self, agent: AgentId, epoch: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE agent_sessions SET controller_id = NULL, epoch = epoch + 1, last_seen_at = now() WHERE agent_id = $1 AND epoch = $2",
        )
            .bind(agent.0)
            .bind(epoch)
            .execute(&self.pool)
            .await
            .during("close a session")?;
        Ok(())
    }

    pub(crate) async fn set_disks(&self, machine: MachineId, disks: Vec<DiskRow>) -> Result<(), StoreError> {
        self.transaction("record disks", move |connection| {
            Box::pin(async move { replace_disks(connection, machine, &disks).await })
        })
        .await
    }

    /// Takes over the attempts that the agent runs; answers those that are still current.
    pub(crate) async fn adopt(
        &self,
        machine: MachineId,
        controller: Uuid,
        running: &[(StepId, i64)],
        lease: Duration,
    ) -> Result<Vec<AdoptedRow>, StoreError> {
        let (steps, attempts): (Vec<Uuid>, Vec<i64>) =
            running.iter().map(|(step, attempt)| (step.0, *attempt)).unzip();
        let rows: Vec<(Uuid, i64, StepKind)> = sqlx::query_as(
            // While no controller was there, nobody wrote down how it got on.
            "UPDATE steps SET controller_id = $2, lease_until = greatest(lease_until, now() + $5::interval),
                    progressed_at = CASE WHEN controller_id = $2 THEN progressed_at ELSE now() END
             FROM unnest($3::uuid[], $4::bigint[]) AS r (step, attempt), jobs j
             WHERE steps.id = r.step AND steps.attempt = r.attempt AND steps.state IN ('dispatched', 'running')
               AND j.id = steps.job_id AND j.machine_id = $1
             RETURNING steps.id, steps.attempt, steps.kind",
        )
        .bind(machine.0)
        .bind(controller)
        .bind(steps)
        .bind(attempts)
        .bind(lease)
        .fetch_all(&self.pool)
        .await
        .during("adopt attempts")?;
        Ok(rows
            .into_iter()
            .map(|(step, attempt, kind)| AdoptedRow { attempt: (StepId(step), attempt), kind })
            .collect())
    }

    /// The snapshots that this machine's live jobs need.
    pub(crate) async fn wanted_snapshots(&self, machine: MachineId) -> Result<Vec<SnapshotId>, StoreError> {
        let rows: Vec<(Uuid,)> = sqlx::query_as(
            "SELECT snapshot_id FROM jobs WHERE machine_id = $1 AND state = 'running' AND snapshot_id IS NOT NULL",
        )
        .bind(machine.0)
        .fetch_all(&self.pool)
        .await
        .during("list wanted snapshots")?;
        Ok(rows.into_iter().map(|(id,)| SnapshotId(id)).collect())
    }

    /// Writes down who was heard of and renews the leases of the attempts that were handed to them. Answers the sessions
    /// that are over.
    pub(crate) async fn record_liveness(
        &self,
        controller: Uuid,
        heard: &[HeardSession],
        lease: Duration,
    ) -> Result<Vec<(AgentId, i64, Over)>, StoreError> {
        let (steps, attempts): (Vec<Uuid>, Vec<i64>) = heard
            .iter()
            .flat_map(|session| &session.attempts)
            .map(|(step, attempt)| (step.0, *attempt))
            .unzip();
        let rows: Vec<(Uuid, i64, Option<String>)> = sqlx::query_as(include_str!("sql/record_liveness.sql"))
            .bind(controller)
            .bind(heard.iter().map(|session| session.agent.0).collect::<Vec<Uuid>>())
            .bind(heard.iter().map(|session| session.epoch).collect::<Vec<i64>>())
            .bind(steps)
            .bind(attempts)
            .bind(lease)
            .fetch_all(&self.pool)
            .await
            .during("record liveness")?;
        let over = |(agent, epoch, quarantine): (Uuid, i64, Option<String>)| {
            let why = quarantine.map_or(Over::Superseded, |reason| Over::Quarantined { reason });
            (AgentId(agent), epoch, why)
        };
        Ok(rows.into_iter().map(over).collect())
    }

    /// Writes progress of many attempts; the first of an attempt makes its step `running`. Late and stale ones change
    /// nothing.
    pub(crate) async fn record_progress(&self, updates: &[ProgressUpdate]) -> Result<(), StoreError> {
        let column = |read: fn(&ProgressUpdate) -> i64| updates.iter().map(read).collect::<Vec<i64>>();
        sqlx::query(
            // Locked steps are skipped: their next progress is soon, and two statements that lock many rows each in an
            // order of its own would deadlock.
            "WITH free AS (SELECT id FROM steps WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
             UPDATE steps SET state = 'running', report_seq = p.sequence, total_bytes = p.total, read_bytes = p.read,
                    changed_bytes = p.changed, sent_bytes = p.sent,
                    progressed_at = CASE WHEN (total_bytes, read_bytes, changed_bytes, sent_bytes)
                                              = (p.total, p.read, p.changed, p.sent) THEN progressed_at ELSE now() END
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::uuid[])
                  AS p (step, attempt, sequence, total, read, changed, sent, machine), free, jobs
             WHERE steps.id = p.step AND free.id = p.step AND steps.attempt = p.attempt AND steps.report_seq < p.sequence
               AND steps.state IN ('dispatched', 'running') AND jobs.id = steps.job_id AND jobs.machine_id = p.machine",
        )
        .bind(updates.iter().map(|update| update.step).collect::<Vec<Uuid>>())
        .bind(column(|update| update.attempt))
        .bind(column(|update| update.sequence))
        .bind(column(|update| update.total_bytes))
        .bind(column(|update| update.read_bytes))
        .bind(column(|update| update.changed_bytes))
        .bind(column(|update| update.sent_bytes))
        .bind(updates.iter().map(|update| update.machine).collect::<Vec<Uuid>>())
        .execute(&self.pool)
        .await
        .during("record progress")?;
        Ok(())
    }
}

pub(super) async fn replace_disks(
    connection: &mut sqlx::PgConnection,
    machine: MachineId,
    disks: &[DiskRow],
) -> Result<(), StoreError> {
    sqlx::query(
        "WITH now AS (SELECT * FROM jsonb_to_recordset($2) AS d (name text, size_bytes bigint)),
         gone AS (DELETE FROM disks WHERE machine_id = $1 AND name NOT IN (SELECT name FROM now))
         INSERT INTO disks (machine_id, name, size_bytes) SELECT $1, name, size_bytes FROM now
         ON CONFLICT (machine_id, name) DO UPDATE SET size_bytes = excluded.size_bytes
         WHERE disks.size_bytes <> excluded.size_bytes",
    )
    .bind(machine.0)
    .bind(Json(disks))
    .execute(connection)
    .await
    .during("record disks")?;
    Ok(())
}
