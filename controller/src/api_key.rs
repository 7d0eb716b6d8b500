use std::path::Path;

use holdfast_gateway::Role;

use chrono::SecondsFormat;

use crate::config::{
    ApiKeyCommand, ConfigError, CreateApiKey, DatabaseArgs, RevokeApiKey, RoleName, api_key_database,
};
use crate::identity::KeyText;
use crate::store::api_key::role_text;
use crate::store::{Store, StoreError};

const LONGEST_NAME: usize = 64;

/// What went wrong with `api-key`. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiKeyError {
    #[error("the configuration cannot be used")]
    Config { source: ConfigError },
    #[error("{name:?} cannot be the name of an API key")]
    Name { name: String },
    #[error("the API key cannot be stored")]
    Store { source: StoreError },
}

impl ApiKeyError {
    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Config { source } => source.next_step(),
            Self::Name { .. } => Some(format!("use 1 to {LONGEST_NAME} of [A-Za-z0-9._@-]")),
            Self::Store { source: StoreError::KeyNameTaken { .. } } => {
                Some("choose another --name".to_owned())
            }
            Self::Store { source: StoreError::NotFound { .. } } => {
                Some("`holdfast-controller api-key list` shows the names".to_owned())
            }
            Self::Store { .. } => Some("check the database URL and that the database runs".to_owned()),
        }
    }
}

pub(crate) async fn run(config: Option<&Path>, command: ApiKeyCommand) -> Result<(), ApiKeyError> {
    match command {
        ApiKeyCommand::Create(command) => create(config, &command).await,
        ApiKeyCommand::List(database) => list(config, &database).await,
        ApiKeyCommand::Revoke(command) => revoke(config, &command).await,
    }
}

/// Makes a key, stores its hash, and prints the key alone on stdout: the only time that it can be seen.
async fn create(config: Option<&Path>, command: &CreateApiKey) -> Result<(), ApiKeyError> {
    if !is_name(&command.name) {
        return Err(ApiKeyError::Name { name: command.name.clone() });
    }
    let role = match command.role {
        RoleName::Admin => Role::Admin,
        RoleName::Viewer => Role::Viewer,
    };
    let key = KeyText::generate();
    let store = connect(config, &command.database).await?;
    store
        .create_api_key(&command.name, role, &key.sha256())
        .await
        .map_err(|source| ApiKeyError::Store { source })?;
    println!("{}", key.reveal());
    Ok(())
}

async fn list(config: Option<&Path>, database: &DatabaseArgs) -> Result<(), ApiKeyError> {
    let store = connect(config, database).await?;
    let keys = store.api_keys().await.map_err(|source| ApiKeyError::Store { source })?;
    let width = keys.iter().map(|(key, _)| key.name.len()).max().unwrap_or(0).max("NAME".len());
    println!("{:width$}  {:6}  CREATED", "NAME", "ROLE");
    for (key, created_at) in keys {
        let created_at = created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        println!("{:width$}  {:6}  {created_at}", key.name, role_text(key.role));
    }
    Ok(())
}

async fn revoke(config: Option<&Path>, command: &RevokeApiKey) -> Result<(), ApiKeyError> {
    let store = connect(config, &command.database).await?;
    store.revoke_api_key(&command.name).await.map_err(|source| ApiKeyError::Store { source })
}

async fn connect(config: Option<&Path>, database: &DatabaseArgs) -> Result<Store, ApiKeyError> {
    let url = api_key_database(config, database).map_err(|source| ApiKeyError::Config { source })?;
    Store::connect(&url).await.map_err(|source| ApiKeyError::Store { source })
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_words() {
        assert!(is_name("alice@example.com"));
        for bad in ["", "a b", "a\n", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
