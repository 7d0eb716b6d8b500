use std::io;
use std::path::PathBuf;

use holdfast_vault_engine::VaultError;

use crate::config::VaultPlace;
use crate::pki::PkiError;

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
