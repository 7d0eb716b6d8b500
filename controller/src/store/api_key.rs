use chrono::{DateTime, Utc};
use serde_json::json;

use holdfast_gateway::Role;

use super::{During, Store, StoreError, audit};

/// An operator's credential, without the secret.
#[derive(Clone, Debug)]
pub(crate) struct ApiKey {
    pub(crate) name: String,
    pub(crate) role: Role,
}

impl Store {
    /// Finds the key whose SHA-256 this is.
    pub(crate) async fn find_api_key(&self, sha256: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<(String, String)> = sqlx::query_as("SELECT name, role FROM api_keys WHERE hash = $1")
            .bind(sha256.as_slice())
            .fetch_optional(&self.pool)
            .await
            .during("find an API key")?;
        row.map(|(name, role)| Ok(ApiKey { name, role: parse_role(&role)? })).transpose()
    }

    /// All keys by name, and when they were made.
    pub(crate) async fn api_keys(&self) -> Result<Vec<(ApiKey, DateTime<Utc>)>, StoreError> {
        let rows: Vec<(String, String, DateTime<Utc>)> =
            sqlx::query_as("SELECT name, role, created_at FROM api_keys ORDER BY name")
                .fetch_all(&self.pool)
                .await
                .during("list the API keys")?;
        rows.into_iter()
            .map(|(name, role, created_at)| Ok((ApiKey { name, role: parse_role(&role)? }, created_at)))
            .collect()
    }

    /// Deletes the key of this name. Controllers remember a key for a few seconds.
    pub(crate) async fn revoke_api_key(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.transaction("revoke an API key", move |connection| {
            Box::pin(async move {
                let deleted = sqlx::query("DELETE FROM api_keys WHERE name = $1")
                    .bind(&name)
                    .execute(&mut *connection)
                    .await
                    .during("revoke an API key")?;
                if deleted.rows_affected() == 0 {
                    return Err(StoreError::NotFound { noun: "API key", name });
                }
                audit::record(connection, "local", "api_key.revoke", &name, json!({})).await
            })
        })
        .await
    }

    /// Stores a new key under a name that no other key has.
    pub(crate) async fn create_api_key(
        &self,
        name: &str,
        role: Role,
        sha256: &[u8; 32],
    ) -> Result<(), StoreError> {
        let (name, sha256) = (name.to_owned(), *sha256);
        self.transaction("create an API key", move |connection| {
            Box::pin(async move {
                let role = role_text(role);
                let inserted = sqlx::query("INSERT INTO api_keys (hash, name, role) VALUES ($1, $2, $3)")
                    .bind(sha256.as_slice())
                    .bind(&name)
                    .bind(role)
                    .execute(&mut *connection)
                    .await;
                match inserted {
                    Err(error) if StoreError::constraint(&error).is_some() => {
                        return Err(StoreError::KeyNameTaken { name });
                    }
                    other => other.during("create an API key")?,
                };
                audit::record(connection, "local", "api_key.create", &name, json!({ "role": role })).await
            })
        })
        .await
    }
}

/// As the database has it, and as operators write it.
pub(crate) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Viewer => "viewer",
    }
}

fn parse_role(text: &str) -> Result<Role, StoreError> {
    match text {
        "admin" => Ok(Role::Admin),
        "viewer" => Ok(Role::Viewer),
        other => Err(StoreError::Corrupt { what: format!("role {other:?}") }),
    }
}
