use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use rand::random;
use zeroize::Zeroizing;

use holdfast_vault_format::recipient::Argon2id;

use crate::VaultError;
use crate::key_file::read_private;

/// RFC 9106, 4: the second recommended choice.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Shorter passphrases can be guessed, whatever a guess costs.
pub const MIN_PASSPHRASE: usize = 12;

/// A passphrase; cleared when it is dropped.
pub struct Passphrase(Zeroizing<String>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase")
    }
}

impl Passphrase {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads the first line of a file that nobody else may read.
    ///
    /// # Errors
    /// As [`KeyFile::load`](crate::KeyFile::load).
    pub fn load(path: &Path) -> Result<Self, VaultError> {
        let text = read_private(path)?;
        Ok(Self::new(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// New parameters, and the key that comes of them.
    pub(super) fn wrap(&self) -> Result<(Argon2id, Zeroizing<[u8; 32]>), VaultError> {
        if self.0.chars().count() < MIN_PASSPHRASE {
            return Err(VaultError::BadInput {
                detail: format!("a passphrase has at least {MIN_PASSPHRASE} characters"),
            });
        }
        let parameters = Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: random() };
        let key = self.wrapping(&parameters)?;
        Ok((parameters, key))
    }

    pub(super) fn wrapping(&self, parameters: &Argon2id) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let bad = |error: argon2::Error| VaultError::BadInput { detail: format!("Argon2id: {error}") };
        let Argon2id { memory_kib, passes, lanes, salt } = parameters;
        let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).map_err(bad)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.0.as_bytes(), salt, key.as_mut_slice())
            .map_err(bad)?;
        Ok(key)
    }
}
