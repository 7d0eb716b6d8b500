use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use zeroize::Zeroizing;

use crate::VaultError;

const MAX_LEN: u64 = 64 << 10;

/// A file with an age identity, by which a vault is unlocked without anybody present. Whoever has it and the vault can read
/// everything: mode 0600, and a copy in a safe place.
pub struct KeyFile {
    pub(crate) identity: Identity,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile").field("recipient", &self.identity.to_public().to_string()).finish()
    }
}

impl KeyFile {
    /// Makes a new identity in a new file.
    pub fn generate(path: &Path) -> Result<Self, VaultError> {
        let error =
            |source| VaultError::KeyFile { operation: "created", path: path.display().to_string(), source };
        let key = Self::new();
        let text = Zeroizing::new(format!(
            "# The key of a Holdfast vault. Keep a copy where the vault is not.\n# public key: {}\n{}\n",
            key.public(),
            &*key.secret()
        ));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(error)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(error)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(error)?;
        }
        Ok(key)
    }

    /// A new identity that is nowhere yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        Self { identity: Identity::generate() }
    }

    /// The age recipient that keys are wrapped for: `age1...`.
    #[must_use]
    pub fn public(&self) -> String {
        self.identity.to_public().to_string()
    }

    /// The line by which it is loaded: `AGE-SECRET-KEY-1...`.
    #[must_use]
    pub fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new(self.identity.to_string().expose_secret().to_owned())
    }

    /// Reads an identity.
    ///
    /// # Errors
    /// [`VaultError::ExposedKeyFile`] if others than its owner have any right to the file, [`VaultError::BadKeyFile`] if it is none.
    pub fn load(path: &Path) -> Result<Self, VaultError> {
        let text = read_private(path)?;
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let identity = line.unwrap_or_default().parse::<Identity>().map_err(|detail| {
            VaultError::BadKeyFile { path: path.display().to_string(), detail: detail.to_owned() }
        })?;
        Ok(Self { identity })
    }
}

/// Reads a file that nobody but its owner has any right to.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let error = |source| VaultError::KeyFile { operation: "read", path: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    let mode = file.metadata().map_err(error)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(VaultError::ExposedKeyFile { path: path.display().to_string(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_LEN).read_to_string(&mut text).map_err(error)?;
    Ok(text)
}
