//! What is kept of each attempt, beside what became of its step.

use sqlx::postgres::PgConnection;
use sqlx::types::Json;

use holdfast_proto::ids::StepId;

use crate::domain::backup::StepOutcome;
use crate::domain::error::JobError;
use crate::domain::job::AttemptOutcome;
use crate::store::{During, StoreError};

use super::{AttemptEnd, StepForUpdate};

pub(super) async fn record_attempt(
    connection: &mut PgConnection,
    step: &StepForUpdate,
    outcome: &StepOutcome,
) -> Result<(), StoreError> {
    let (name, error) = match outcome {
        StepOutcome::Done => (AttemptOutcome::Done, None),
        StepOutcome::Failed(error) => (AttemptOutcome::Failed, Some(Json(error))),
        StepOutcome::Cancelled => (AttemptOutcome::Cancelled, None),
        StepOutcome::Lost | StepOutcome::GivenUp(_) => (AttemptOutcome::Lost, None),
    };
    sqlx::query("UPDATE step_attempts SET outcome = $3, error = $4, ended_at = now() WHERE step_id = $1 AND attempt = $2")
        .bind(step.id)
        .bind(step.attempt)
        .bind(name.as_str())
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
        AttemptEnd::Failed(error) => (AttemptOutcome::Failed, Some(Json(error))),
        AttemptEnd::Cancelled => (AttemptOutcome::Cancelled, None),
        AttemptEnd::Lost => (AttemptOutcome::Lost, None),
        AttemptEnd::SnapshotTaken(_) | AttemptEnd::Transferred { .. } | AttemptEnd::Released => {
            (AttemptOutcome::Failed, Some(Json(JobError::wrong_report())))
        }
    };
    sqlx::query(
        "UPDATE step_attempts SET outcome = $3, error = $4
         WHERE step_id = $1 AND attempt = $2 AND (outcome IS NULL OR outcome = 'lost')",
    )
    .bind(step.id)
    .bind(step.attempt)
    .bind(name.as_str())
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
    let row: Option<(Option<AttemptOutcome>, Option<Json<JobError>>)> =
        sqlx::query_as("SELECT outcome, error FROM step_attempts WHERE step_id = $1 AND attempt = $2")
            .bind(step.0)
            .bind(attempt)
            .fetch_optional(connection)
            .await
            .during("read what was said of an attempt")?;
    Ok(row.and_then(|(outcome, error)| match (outcome, error) {
        (Some(AttemptOutcome::Failed), Some(error)) => Some(AttemptEnd::Failed(error.0)),
        (Some(AttemptOutcome::Cancelled), _) => Some(AttemptEnd::Cancelled),
        (Some(AttemptOutcome::Lost), _) => Some(AttemptEnd::Lost),
        _ => None,
    }))
}
