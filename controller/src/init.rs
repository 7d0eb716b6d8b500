use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use holdfast_vault_engine::{KeyFile, Storage, Vault, VaultError};

use crate::config::{CONFIG_FILE, InitConfig};
use crate::pki::{Ca, CaOrigin, PkiError, check_host};

/// The object that makes a folder a vault.
const VAULT_MARK: &str = "vault.json";

/// What went wrong in `init`. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("cannot make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot look at {}", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("the certificate authority cannot be set up")]
    Pki { source: PkiError },
    #[error("the vault key {} cannot be used", path.display())]
    Key { path: PathBuf, source: VaultError },
    #[error("there is a vault in {} but not its key {}", vault.display(), key.display())]
    KeyLost { vault: PathBuf, key: PathBuf },
    #[error("the vault in {} cannot be made or opened", path.display())]
    Vault { path: PathBuf, source: VaultError },
    #[error("the configuration cannot be written as TOML")]
    Encode { source: toml::ser::Error },
}

impl InitError {
    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Pki { source } => source.next_step(),
            Self::KeyLost { key, .. } => Some(format!(
                "put the vault's key back as {} (from your copy, or from another controller), or give another --vault",
                key.display()
            )),
            Self::Vault { .. } => {
                Some("check that the key belongs to this vault and the folder can be written".to_owned())
            }
            _ => None,
        }
    }
}

/// Makes what is missing, leaves what is there, and tells which is which on stdout. Safe to run again, also after a
/// crash in the middle.
pub(crate) async fn run(config: InitConfig) -> Result<(), InitError> {
    for host in &config.hosts {
        check_host(host).map_err(|source| InitError::Pki { source })?;
    }
    make_folder(&config.folders.data, 0o755)?;
    let (ca, origin) =
        Ca::load_or_create(&config.folders.pki()).map_err(|source| InitError::Pki { source })?;
    tell(origin == CaOrigin::Created, &config.folders.pki(), "certificate authority");

    let key_path = config.folders.vault_key();
    let vault_path = &config.folders.vault;
    let key_is_new = !is_there(&key_path)?;
    let vault_is_new = !is_there(&vault_path.join(VAULT_MARK))?;
    if key_is_new && !vault_is_new {
        return Err(InitError::KeyLost { vault: vault_path.clone(), key: key_path });
    }
    let key = if key_is_new { KeyFile::generate(&key_path) } else { KeyFile::load(&key_path) }
        .map_err(|source| InitError::Key { path: key_path.clone(), source })?;
    tell(key_is_new, &key_path, "key of the vault");

    make_folder(vault_path, 0o700)?;
    let vault_error = |source| InitError::Vault { path: vault_path.clone(), source };
    let objects = Storage::directory(vault_path).map_err(vault_error)?;
    let vault =
        if vault_is_new { Vault::create(objects, &key).await } else { Vault::open(objects, &key).await }
            .map_err(vault_error)?;
    tell(vault_is_new, vault_path, &format!("vault {}", vault.id()));

    if !config.hosts.is_empty() || config.vault_was_named {
        write_config(&config)?;
    }
    println!();
    println!("CA fingerprint (SHA-256), for agents that enrol: {}", ca.fingerprint());
    println!("Keep copies of {} and {} in a safe place:", key_path.display(), config.folders.pki().display());
    println!("without the key nothing in the vault can be read.");
    println!();
    println!(
        "Next: holdfast-controller serve --data-dir {} --database-url URL",
        config.folders.data.display()
    );
    Ok(())
}

/// What `serve` has to find again.
#[derive(Serialize)]
struct Remembered<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    host: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<&'a Path>,
}

fn write_config(config: &InitConfig) -> Result<(), InitError> {
    let path = config.folders.data.join(CONFIG_FILE);
    let vault = config.vault_was_named.then_some(config.folders.vault.as_path());
    // Another working directory must not make it another folder.
    let vault = match vault.map(std::path::absolute) {
        Some(Ok(vault)) => Some(vault),
        Some(Err(source)) => return Err(InitError::Look { path: config.folders.vault.clone(), source }),
        None => None,
    };
    let remembered = Remembered { host: &config.hosts, vault: vault.as_deref() };
    let text = toml::to_string(&remembered).map_err(|source| InitError::Encode { source })?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => tell(true, &path, "configuration"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            tell(false, &path, "configuration; edit it to change --host or --vault");
        }
        Err(source) => return Err(InitError::Make { path, source }),
    }
    Ok(())
}

fn tell(is_new: bool, path: &Path, what: &str) {
    let verb = if is_new { "made" } else { "kept" };
    println!("{verb} {} ({what})", path.display());
}

fn is_there(path: &Path) -> Result<bool, InitError> {
    path.try_exists().map_err(|source| InitError::Look { path: path.to_owned(), source })
}

fn make_folder(path: &Path, mode: u32) -> Result<(), InitError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| InitError::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Folders;

    fn config(data: &Path) -> InitConfig {
        let folders = Folders { data: data.to_owned(), vault: data.join("vault") };
        InitConfig { folders, hosts: vec!["backup.example.com".to_owned()], vault_was_named: false }
    }

    fn content(data: &Path) -> Vec<Vec<u8>> {
        ["pki/ca.pem", "pki/ca.key", "vault.key", "vault/vault.json", CONFIG_FILE]
            .iter()
            .map(|name| fs::read(data.join(name)).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_second_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new/data");
        run(config(&data)).await.unwrap();
        let first = content(&data);
        assert_eq!(first[4], b"host = [\"backup.example.com\"]\n");
        run(config(&data)).await.unwrap();
        assert_eq!(content(&data), first);
    }

    #[tokio::test]
    async fn what_an_interrupted_run_left_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        run(config(dir.path())).await.unwrap();
        let first = content(dir.path());
        fs::remove_dir_all(dir.path().join("vault")).unwrap();
        fs::remove_dir_all(dir.path().join("pki")).unwrap();
        run(config(dir.path())).await.unwrap();
        let second = content(dir.path());
        assert_eq!(first[2], second[2], "the key of the vault stays");
        assert_ne!(first[0], second[0]);
    }

    #[tokio::test]
    async fn a_lost_vault_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        run(config(dir.path())).await.unwrap();
        fs::remove_file(dir.path().join("vault.key")).unwrap();
        assert!(matches!(run(config(dir.path())).await, Err(InitError::KeyLost { .. })));
        assert!(!dir.path().join("vault.key").try_exists().unwrap());
    }

    #[tokio::test]
    async fn a_host_that_is_none_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let config = InitConfig { hosts: vec!["https://x".to_owned()], ..config(&data) };
        assert!(matches!(run(config).await, Err(InitError::Pki { .. })));
        assert!(!data.try_exists().unwrap());
    }
}
