use serde_json::Value;
use sqlx::postgres::PgConnection;

use super::{During, StoreError};

/// Records an action in the transaction of its effect. Never a secret in `detail`.
pub(crate) async fn record(
    connection: &mut PgConnection,
    actor: &str,
    action: &'static str,
    subject: &str,
    detail: Value,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit (actor, action, subject, detail) VALUES ($1, $2, $3, $4)")
        .bind(actor)
        .bind(action)
        .bind(subject)
        .bind(detail)
        .execute(connection)
        .await
        .during("record an action")?;
    Ok(())
}
