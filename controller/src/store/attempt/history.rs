//! What is kept of each attempt, beside what became of its step.

use sqlx::postgres::PgConnection;
use sqlx::types::Json;

use holdfast_proto::ids::StepId;

use crate::domain::backup::StepOutcome;
use crate::domain::error::JobError;
use crate::store::{During, StoreError};

use super::{AttemptEnd, StepForUpdate};

pub(super) async fn record_attempt(
    connection: &mut PgConnection,
    step: &StepForUpdate,
    outcome: &StepOutcome,
) -> Result<(), StoreError> {
    let (name, error) = match outcome {
        StepOutcome::Done => ("done", None),
        StepOutcome::Failed(error) => ("failed", Some(Json(error))),
        StepOutcome::Cancelled => ("cancelled", None),
        StepOutcome::Lost | StepOutcome::GivenUp => ("lost", None),
    };
    sqlx::query("UPDATE step_attempts SET outcome = $3, error = $4, ended_at = now() WHERE step_id = $1 AND attempt = $2")
        .bind(step.id)
        .bind(step.attempt)
        .bind(name)
        .bind(error)
        .execute(connection)
        .await
        .during("record an attempt's end")?;
    Ok(())
}

/// Keeps what was said of an attempt whose commit is not settled. That it is lost is only said by those who do not know better.
pub(super) async fn note_end(
    connection: &mut PgConnection,
    step: &StepForUpdate,
    end: AttemptEnd,
) -> Result<(), StoreError> {
    let (name, error) = match end {
        AttemptEnd::Failed(error) => ("failed", Some(Json(error))),
        AttemptEnd::Cancelled => ("cancelled", None),
        AttemptEnd::Lost => ("lost", None),
        AttemptEnd::SnapshotTaken(_) | AttemptEnd::Transferred { .. } | AttemptEnd::Released => {
            ("failed", Some(Json(JobError::wrong_report())))
        }
    };
    sqlx::query(
        "UPDATE step_attempts SET outcome = $3, error = $4
         WHERE step_id = $1 AND attempt = $2 AND (outcome IS NULL OR outcome = 'lost')",
    )
    .bind(step.id)
    .bind(step.attempt)
    .bind(name)
    .bind(error)
    .execute(connection)
    .await
    .during("keep what was said of an attempt")?;
    Ok(())
}

/// What was said of an attempt while its commit was not settled.
pub(in crate::store) async fn noted_end(
    connection: &mut PgConnection,
    step: StepId,
    attempt: i64,
) -> Result<Option<AttemptEnd>, StoreError> {
    let row: Option<(Option<String>, Option<Json<JobError>>)> =
        sqlx::query_as("SELECT outcome, error FROM step_attempts WHERE step_id = $1 AND attempt = $2")
            .bind(step.0)
            .bind(attempt)
            .fetch_optional(connection)
            .await
            .during("read what was said of an attempt")?;
    Ok(row.and_then(|(outcome, error)| match (outcome.as_deref(), error) {
        (Some("failed"), Some(error)) => Some(AttemptEnd::Failed(error.0)),
        (Some("cancelled"), _) => Some(AttemptEnd::Cancelled),
        (Some("lost"), _) => Some(AttemptEnd::Lost),
        _ => None,
    }))
}
