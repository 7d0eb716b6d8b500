mod error;
mod remembered;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use holdfast_vault_engine::{KeyFile, Vault, VaultError};

use crate::config::{InitConfig, VaultPlace};
use crate::pki::{Ca, CaOrigin, check_host};

pub(crate) use error::InitError;
use remembered::write_config;

/// The object that makes a folder a vault.
const VAULT_MARK: &str = "vault.json";

/// Extension of a key whose vault is being made.
const FRESH_KEY: &str = "key.new";

/// Makes what is missing, leaves what is there, and tells which is which on stdout. Safe to run again, also after a
/// crash in the middle.
pub(crate) async fn run(config: InitConfig) -> Result<(), InitError> {
    for host in &config.hosts {
        check_host(host).map_err(|source| InitError::Pki { source })?;
    }
    make_folder(&config.folders.data, 0o755)?;
    let (ca, origin) =
        Ca::load_or_create(&config.folders.pki()).map_err(|source| InitError::Pki { source })?;
    tell(origin == CaOrigin::Created, config.folders.pki().display(), "certificate authority");

    let key_path = config.folders.vault_key();
    make_vault(&config, &key_path).await?;

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

/// Makes or opens the vault. A key has its name only once there is a vault of it, and another one while the first `init` makes that: so a
/// key without a vault tells of one that is not there, such as on a disk that is not mounted, and is not taken for a beginning.
async fn make_vault(config: &InitConfig, key_path: &Path) -> Result<(), InitError> {
    let place = &config.folders.vault;
    let vault_error = |source| InitError::Vault { place: place.clone(), source };
    let key_error = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Key { path, source }
    };
    let fresh_path = key_path.with_extension(FRESH_KEY);
    let key_is_new = !is_there(key_path)?;
    let vault_is_new = match place {
        VaultPlace::Directory(path) => !is_there(&path.join(VAULT_MARK))?,
        VaultPlace::S3(_) => {
            !Vault::is_in(&place.storage().map_err(vault_error)?).await.map_err(vault_error)?
        }
    };
    let key = match (key_is_new, is_there(&fresh_path)?) {
        (false, _) if vault_is_new && !config.new_vault => {
            return Err(InitError::VaultLost { vault: place.clone(), key: key_path.to_owned() });
        }
        (false, _) => KeyFile::load(key_path).map_err(key_error(key_path))?,
        (true, true) => KeyFile::load(&fresh_path).map_err(key_error(&fresh_path))?,
        (true, false) if !vault_is_new => {
            return Err(InitError::KeyLost { vault: place.clone(), key: key_path.to_owned() });
        }
        (true, false) => KeyFile::generate(&fresh_path).map_err(key_error(&fresh_path))?,
    };
    if let VaultPlace::Directory(path) = place {
        make_folder(path, 0o700)?;
    }
    let objects = place.storage().map_err(vault_error)?;
    let vault = match (vault_is_new, config.names_in_database) {
        (true, false) => Vault::create(objects, &key).await,
        (true, true) => Vault::create_arbitrated(objects, &key).await,
        // Nothing else begins to work before `serve`.
        (false, _) => Vault::open(objects.alone(), &key).await,
    };
    let vault = match vault {
        // What is there is no vault of the `init` that was interrupted.
        Err(VaultError::WrongKey { .. }) if key_is_new => {
            return Err(InitError::KeyLost { vault: place.clone(), key: key_path.to_owned() });
        }
        other => other.map_err(vault_error)?,
    };
    if config.names_in_database && !vault.is_arbitrated() {
        return Err(InitError::NamesFixed { place: place.clone() });
    }
    if key_is_new {
        fs::rename(&fresh_path, key_path)
            .and_then(|()| File::open(&config.folders.data)?.sync_all())
            .map_err(|source| InitError::KeyName { path: fresh_path.clone(), source })?;
    }
    tell(key_is_new, key_path.display(), "key of the vault");
    tell(vault_is_new, place, &format!("vault {}", vault.id()));
    if vault.enforces_locks() {
        println!("tried {place}: it deletes nothing that is under retention (object lock)");
    }
    Ok(())
}

fn tell(is_new: bool, path: impl std::fmt::Display, what: &str) {
    let verb = if is_new { "made" } else { "kept" };
    println!("{verb} {path} ({what})");
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
