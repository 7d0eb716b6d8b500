use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId};

use super::machine::MAX_LABELS;
use super::{During, Store, StoreError, audit, token};

/// An agent that presents a token.
#[derive(Clone, Debug)]
pub(crate) struct NewAgent {
    pub(crate) token_sha256: [u8; 32],
    pub(crate) agent: AgentId,
    /// The id of its machine, if that is made.
    pub(crate) machine: MachineId,
    pub(crate) machine_name: String,
    pub(crate) os: String,
    pub(crate) version: String,
    pub(crate) serial: String,
    pub(crate) not_after: DateTime<Utc>,
}

impl Store {
    /// Uses the token, and makes machine and agent, or changes nothing; answers the machine. A token for a machine that exists
    /// puts the new agent in the place of that machine's old one. An agent that has enrolled with this token already only gets
    /// another certificate: the answer was lost.
    pub(crate) async fn enrol(&self, new: NewAgent) -> Result<MachineId, StoreError> {
        self.transaction("enrol an agent", move |connection| {
            Box::pin(async move {
                if let Some(machine) = enrolled_with(connection, &new).await? {
                    return certify_again(connection, machine, &new).await;
                }
                let token = token::consume(connection, &new.token_sha256).await?;
                match token.machine {
                    Some(machine) => take_over(connection, machine, &new).await,
                    None => make_machine(connection, token.labels, &new).await,
                }
            })
        })
        .await
    }

    /// Records a renewed certificate.
    pub(crate) async fn add_certificate(
        &self,
        agent: AgentId,
        serial: String,
        not_after: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.transaction("record a certificate", move |connection| {
            Box::pin(async move {
                insert_certificate(connection, agent, &serial, not_after).await?;
                sqlx::query(
                    "DELETE FROM certificates WHERE agent_id = $1 AND not_after < now() - interval '30 days'",
                )
                .bind(agent.0)
                .execute(&mut *connection)
                .await
                .during("forget old certificates")?;
                let detail = json!({ "serial": serial, "not_after": not_after });
                audit::record(
                    connection,
                    &format!("agent:{agent}"),
                    "certificate.renew",
                    &agent.to_string(),
                    detail,
                )
                .await
            })
        })
        .await
    }

    /// Whether this agent may do anything: it is enrolled, not revoked, and the certificate was issued to it.
    pub(crate) async fn agent_is_active(&self, agent: AgentId, serial: &str) -> Result<bool, StoreError> {
        let row: Option<(bool,)> = sqlx::query_as(
            "SELECT a.revoked_at IS NULL FROM agents a JOIN certificates c ON c.agent_id = a.id
             WHERE a.id = $1 AND c.serial = $2",
        )
        .bind(agent.0)
        .bind(serial)
        .fetch_optional(&self.pool)
        .await
        .during("look an agent up")?;
        Ok(row.is_some_and(|(active,)| active))
    }

    /// The machine of an agent.
    pub(crate) async fn machine_of(&self, agent: AgentId) -> Result<MachineId, StoreError> {
        let row: Option<(Uuid,)> = sqlx::query_as("SELECT machine_id FROM agents WHERE id = $1")
            .bind(agent.0)
            .fetch_optional(&self.pool)
            .await
            .during("find an agent's machine")?;
        row.map(|(id,)| MachineId(id))
            .ok_or_else(|| StoreError::NotFound { noun: "agent", name: agent.to_string() })
    }
}

/// The machine of an agent that has enrolled with this token, as long as that would be valid if it had a use left.
async fn enrolled_with(
    connection: &mut PgConnection,
    new: &NewAgent,
) -> Result<Option<MachineId>, StoreError> {
    let row: Option<(Uuid,)> = sqlx::query_as(
        "SELECT a.machine_id FROM agents a, enrolment_tokens t
         WHERE a.id = $1 AND a.revoked_at IS NULL AND t.hash = $2 AND t.expires_at > now()
           AND t.revoked_at IS NULL",
    )
    .bind(new.agent.0)
    .bind(new.token_sha256.as_slice())
    .fetch_optional(connection)
    .await
    .during("look for an earlier enrolment")?;
    Ok(row.map(|(id,)| MachineId(id)))
}

async fn certify_again(
    connection: &mut PgConnection,
    machine: MachineId,
    new: &NewAgent,
) -> Result<MachineId, StoreError> {
    insert_certificate(connection, new.agent, &new.serial, new.not_after).await?;
    let detail = json!({ "machine": new.machine_name, "token": token::id_of(&new.token_sha256), "serial": new.serial });
    record(connection, "agent.enrol_again", machine, new.agent, detail).await?;
    Ok(machine)
}

/// One of that name keeps its place, unless its agent had a session once: jobs and labels that it was given since are there.
async fn make_machine(
    connection: &mut PgConnection,
    labels: BTreeMap<String, String>,
    new: &NewAgent,
) -> Result<MachineId, StoreError> {
    let machine = match enrolled_in_vain(connection, &new.machine_name).await? {
        Some(machine) => {
            let (labelled,): (i64,) = sqlx::query_as(
                "UPDATE machines SET labels = labels || $2, labelled_at = now(), os = $3 WHERE id = $1
                 RETURNING (SELECT count(*) FROM jsonb_object_keys(labels))",
            )
            .bind(machine.0)
            .bind(Json(&labels))
            .bind(&new.os)
            .fetch_one(&mut *connection)
            .await
            .during("enrol a machine anew")?;
            if usize::try_from(labelled).is_ok_and(|count| count > MAX_LABELS) {
                return Err(StoreError::TooManyLabels);
            }
            forget(connection, machine).await?;
            machine
        }
        None => {
            insert_machine(connection, &labels, new).await?;
            new.machine
        }
    };
    insert_agent(connection, machine, 0, new).await?;
    let detail = json!({ "machine": new.machine_name, "token": token::id_of(&new.token_sha256), "serial": new.serial });
    record(connection, "agent.enrol", machine, new.agent, detail).await?;
    Ok(machine)
}

/// An agent that was killed before it kept its identity must not block its own name. What has points was there: a database that was put
/// back may not know of its sessions.
async fn enrolled_in_vain(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<MachineId>, StoreError> {
    let row: Option<(Uuid,)> = sqlx::query_as(
        "SELECT m.id FROM machines m JOIN agent_sessions s ON s.machine_id = m.id
         WHERE m.name = $1 AND m.removed_at IS NULL AND s.epoch = 0
           AND NOT EXISTS (SELECT 1 FROM points p WHERE p.machine_id = m.id)
         FOR UPDATE",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .during("look for an enrolment in vain")?;
    Ok(row.map(|(id,)| MachineId(id)))
}

async fn insert_machine(
    connection: &mut PgConnection,
    labels: &BTreeMap<String, String>,
    new: &NewAgent,
) -> Result<(), StoreError> {
    let inserted = sqlx::query("INSERT INTO machines (id, name, labels, os) VALUES ($1, $2, $3, $4)")
        .bind(new.machine.0)
        .bind(&new.machine_name)
        .bind(Json(labels))
        .bind(&new.os)
        .execute(&mut *connection)
        .await;
    match inserted {
        Err(error) if StoreError::constraint(&error).is_some() => {
            return Err(StoreError::NameTaken { name: new.machine_name.clone() });
        }
        other => other.during("create a machine")?,
    };
    sqlx::query("INSERT INTO machine_slots (machine_id) VALUES ($1)")
        .bind(new.machine.0)
        .execute(connection)
        .await
        .during("create a machine's slot")?;
    Ok(())
}

/// Puts a new agent in the place of a machine's old one, which is forgotten: what it still says is refused. The machine keeps
/// its id, and so its labels, jobs and points.
async fn take_over(
    connection: &mut PgConnection,
    machine: MachineId,
    new: &NewAgent,
) -> Result<MachineId, StoreError> {
    let row: Option<(String, Option<String>)> = sqlx::query_as(
        "SELECT name, quarantine FROM machines WHERE id = $1 AND removed_at IS NULL FOR UPDATE",
    )
    .bind(machine.0)
    .fetch_optional(&mut *connection)
    .await
    .during("find the machine to take over")?;
    // It was removed since the token was made.
    let (name, quarantine) = row.ok_or(StoreError::TokenRefused)?;
    if name != new.machine_name {
        return Err(StoreError::OtherMachine { name, given: new.machine_name.clone() });
    }
    sqlx::query("UPDATE machines SET quarantine = NULL, os = $2 WHERE id = $1")
        .bind(machine.0)
        .bind(&new.os)
        .execute(&mut *connection)
        .await
        .during("take a machine over")?;
    let (old, epoch) = forget(connection, machine).await?.unzip();
    // Not 0, with which its name would be anybody's who has a token: it may have points.
    insert_agent(connection, machine, epoch.unwrap_or(0) + 1, new).await?;
    let detail = json!({ "machine": name, "token": token::id_of(&new.token_sha256), "serial": new.serial,
        "old_agent": old, "quarantine": quarantine });
    record(connection, "agent.take_over", machine, new.agent, detail).await?;
    Ok(machine)
}

/// Forgets a machine's agent, so that whatever it still says is refused; answers its id and the epoch of its last session.
pub(super) async fn forget(
    connection: &mut PgConnection,
    machine: MachineId,
) -> Result<Option<(Uuid, i64)>, StoreError> {
    sqlx::query_as(
        "DELETE FROM agents a USING agent_sessions s WHERE a.machine_id = $1 AND s.agent_id = a.id
         RETURNING a.id, s.epoch",
    )
    .bind(machine.0)
    .fetch_optional(connection)
    .await
    .during("forget a machine's agent")
}

async fn insert_agent(
    connection: &mut PgConnection,
    machine: MachineId,
    epoch: i64,
    new: &NewAgent,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO agents (id, machine_id, version) VALUES ($1, $2, $3)")
        .bind(new.agent.0)
        .bind(machine.0)
        .bind(&new.version)
        .execute(&mut *connection)
        .await
        .during("create an agent")?;
    sqlx::query("INSERT INTO agent_sessions (agent_id, machine_id, epoch) VALUES ($1, $2, $3)")
        .bind(new.agent.0)
        .bind(machine.0)
        .bind(epoch)
        .execute(&mut *connection)
        .await
        .during("create an agent's session row")?;
    insert_certificate(connection, new.agent, &new.serial, new.not_after).await
}

async fn record(
    connection: &mut PgConnection,
    action: &'static str,
    machine: MachineId,
    agent: AgentId,
    detail: serde_json::Value,
) -> Result<(), StoreError> {
    audit::record(connection, &format!("agent:{agent}"), action, &machine.to_string(), detail).await
}

async fn insert_certificate(
    connection: &mut PgConnection,
    agent: AgentId,
    serial: &str,
    not_after: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO certificates (serial, agent_id, not_after) VALUES ($1, $2, $3)")
        .bind(serial)
        .bind(agent.0)
        .bind(not_after)
        .execute(connection)
        .await
        .during("record a certificate")?;
    Ok(())
}
