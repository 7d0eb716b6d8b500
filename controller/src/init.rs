use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use holdfast_vault_engine::{KeyFile, S3, Vault, VaultError};

use crate::config::{CONFIG_FILE, InitConfig, VaultPlace};
use crate::pki::{Ca, CaOrigin, PkiError, check_host};

/// The object that makes a folder a vault.
const VAULT_MARK: &str = "vault.json";

/// Extension of a key whose vault is being made.
const FRESH_KEY: &str = "key.new";

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
    #[error("there is a vault in {vault} but not its key {}", key.display())]
    KeyLost { vault: VaultPlace, key: PathBuf },
    #[error("there is the key {} of a vault, but no vault in {vault}", key.display())]
    VaultLost { vault: VaultPlace, key: PathBuf },
    #[error("the key {} cannot be given its name", path.display())]
    KeyName { path: PathBuf, source: io::Error },
    #[error("the vault in {place} cannot be made or opened")]
    Vault { place: VaultPlace, source: VaultError },
    #[error("the vault in {place} was made without --names-in-database, and that cannot be changed")]
    NamesFixed { place: VaultPlace },
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
            Self::Key { source: VaultError::ExposedKeyFile { path, .. }, .. } => {
                Some(format!("run `chmod 600 {path}`"))
            }
            Self::Key { path, source: VaultError::BadKeyFile { .. } } if path.ends_with("vault.key.new") => {
                Some(format!("remove {}: it was cut off while it was made, and no vault has it", path.display()))
            }
            Self::VaultLost { vault: VaultPlace::S3(_), .. } => Some(
                "check url and endpoint in [vault]; --new-vault makes another one, without what was backed up so far".to_owned(),
            ),
            Self::VaultLost { .. } => Some(
                "mount the file system of the vault, or give its folder with --vault; --new-vault makes another one, without \
                 what was backed up so far"
                    .to_owned(),
            ),
            Self::Vault { source: VaultError::ExposedKeyFile { path, .. }, .. } => {
                Some(format!("run `chmod 600 {path}`"))
            }
            Self::NamesFixed { .. } => Some("leave it out, or make a new vault in another place with --new-vault".to_owned()),
            Self::Vault { source, .. } => Some(
                source
                    .next_step()
                    .unwrap_or("check that the key belongs to this vault and that its place can be written")
                    .to_owned(),
            ),
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

/// What `serve` has to find again.
#[derive(Serialize)]
struct Remembered<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    host: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<PathBuf>,
}

fn write_config(config: &InitConfig) -> Result<(), InitError> {
    let path = config.folders.data.join(CONFIG_FILE);
    let vault = match &config.folders.vault {
        _ if !config.vault_was_named => None,
        // Another working directory must not make it another folder.
        VaultPlace::Directory(path) => {
            Some(std::path::absolute(path).map_err(|source| InitError::Look { path: path.clone(), source })?)
        }
        VaultPlace::S3(s3) if **s3 == S3::at(s3.location.clone()) => Some(s3.location.to_string().into()),
        // Its table is in a configuration file already.
        VaultPlace::S3(_) => None,
    };
    let remembered = Remembered { host: &config.hosts, vault };
    let text = toml::to_string(&remembered).map_err(|source| InitError::Encode { source })?;
    match make_file(&path, &text) {
        Ok(()) => tell(true, path.display(), "configuration"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            tell(false, path.display(), "configuration; edit it to change --host or --vault");
        }
        Err(source) => return Err(InitError::Make { path, source }),
    }
    Ok(())
}

/// Makes a file that is whole once it has its name, and stays then, whatever dies. One that is there already is left alone.
fn make_file(path: &Path, text: &str) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut staged = path.to_owned().into_os_string();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&staged)?;
    let made = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&staged, path));
    fs::remove_file(&staged)?;
    made?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Folders;

    fn config(data: &Path) -> InitConfig {
        let folders = Folders { data: data.to_owned(), vault: VaultPlace::Directory(data.join("vault")) };
        InitConfig {
            folders,
            hosts: vec!["backup.example.com".to_owned()],
            vault_was_named: false,
            new_vault: false,
            names_in_database: false,
        }
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
        let (key, fresh) = (dir.path().join("vault.key"), dir.path().join("vault.key.new"));
        run(config(dir.path())).await.unwrap();
        let first = content(dir.path());
        // Before the authority was there, and after the vault was made, but before its key had its name.
        fs::remove_dir_all(dir.path().join("pki")).unwrap();
        fs::rename(&key, &fresh).unwrap();
        run(config(dir.path())).await.unwrap();
        let second = content(dir.path());
        assert_eq!(first[2..], second[2..], "key, vault and configuration stay");
        assert_ne!(first[0], second[0]);
        assert!(!fresh.try_exists().unwrap());
        // Before the vault was made.
        fs::rename(&key, &fresh).unwrap();
        fs::remove_dir_all(dir.path().join("vault")).unwrap();
        run(config(dir.path())).await.unwrap();
        let third = content(dir.path());
        assert_eq!(first[2], third[2], "the key that was made is used");
        assert_ne!(first[3], third[3]);
        assert!(!fresh.try_exists().unwrap());
    }

    /// Half a configuration would be kept as one that was edited.
    #[tokio::test]
    async fn a_configuration_has_its_name_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, staged) = (dir.path().join(CONFIG_FILE), dir.path().join("controller.toml.new"));
        fs::create_dir(&staged).unwrap();
        fs::write(staged.join("in-the-way"), "").unwrap();
        let cut_off = run(config(dir.path())).await;
        assert!(matches!(cut_off, Err(InitError::Make { .. })), "{cut_off:?}");
        assert!(!path.try_exists().unwrap(), "nothing is written in place");
        fs::remove_dir_all(&staged).unwrap();
        fs::write(&staged, "host = [\"exam").unwrap();
        run(config(dir.path())).await.unwrap();
        assert!(
            toml::from_str::<toml::Table>(&fs::read_to_string(&path).unwrap()).unwrap().contains_key("host")
        );
        assert!(!staged.try_exists().unwrap());
        fs::write(&path, "# mine").unwrap();
        run(config(dir.path())).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# mine");
        assert!(!staged.try_exists().unwrap());
    }

    /// A disk that is not mounted must not become a second vault.
    #[tokio::test]
    async fn a_key_without_its_vault_makes_no_other_one_unasked() {
        let dir = tempfile::tempdir().unwrap();
        run(config(dir.path())).await.unwrap();
        let vault = dir.path().join("vault");
        fs::rename(&vault, dir.path().join("away")).unwrap();
        for mount_point in [false, true] {
            if mount_point {
                fs::create_dir(&vault).unwrap();
            }
            let refused = run(config(dir.path())).await.unwrap_err();
            assert!(matches!(refused, InitError::VaultLost { .. }), "{refused:?}");
            let next = refused.next_step().unwrap();
            assert!(
                next.contains("mount") && next.contains("--vault") && next.contains("--new-vault"),
                "{next}"
            );
            assert_eq!(vault.try_exists().unwrap(), mount_point);
        }
        assert_eq!(fs::read_dir(&vault).unwrap().count(), 0);
        let key = fs::read(dir.path().join("vault.key")).unwrap();
        run(InitConfig { new_vault: true, ..config(dir.path()) }).await.unwrap();
        assert_eq!(fs::read(dir.path().join("vault.key")).unwrap(), key);
        assert!(vault.join(VAULT_MARK).try_exists().unwrap());
        // Where there is one it is opened, whatever was asked for.
        let made = content(dir.path());
        run(InitConfig { new_vault: true, ..config(dir.path()) }).await.unwrap();
        assert_eq!(content(dir.path()), made);
    }

    #[tokio::test]
    async fn a_key_that_was_being_made_is_not_taken_for_that_of_another_vault() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(config(dir.path())).await.unwrap();
        run(config(other.path())).await.unwrap();
        fs::remove_file(dir.path().join("vault.key")).unwrap();
        fs::rename(other.path().join("vault.key"), dir.path().join("vault.key.new")).unwrap();
        assert!(matches!(run(config(dir.path())).await, Err(InitError::KeyLost { .. })));
        assert!(!dir.path().join("vault.key").try_exists().unwrap());
    }

    #[tokio::test]
    async fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        run(config(dir.path())).await.unwrap();
        let key = dir.path().join("vault.key");
        fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
        let refused = run(config(dir.path())).await.unwrap_err();
        assert_eq!(refused.next_step(), Some(format!("run `chmod 600 {}`", key.display())));
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
