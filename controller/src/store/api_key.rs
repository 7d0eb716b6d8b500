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
        row.map(|(name, role)| match role.as_str() {
            "admin" => Ok(ApiKey { name, role: Role::Admin }),
            "viewer" => Ok(ApiKey { name, role: Role::Viewer }),
            other => Err(StoreError::Corrupt { what: format!("role {other:?}") }),
        })
        .transpose()
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
                let role = match role {
                    Role::Admin => "admin",
                    Role::Viewer => "viewer",
                };
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
