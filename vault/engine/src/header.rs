use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::object;
use crate::store::Storage;
use crate::{VaultError, name};

const FORMAT: u32 = 1;
const BLOCK_BYTES: u32 = 4096;
const MAX_CELL_BYTES: u32 = 131_072;
const CIPHER_SUITE: &str = "aes-256-gcm+blake3+ed25519";

/// `vault.json`: what a reader has to know before it can unlock anything.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    format: u32,
    pub(crate) vault_id: Uuid,
    pub(crate) key_id: Uuid,
    block_bytes: u32,
    max_cell_bytes: u32,
    cipher_suite: String,
    /// Hex; also wrapped with the keys, so that replacing it is noticed.
    pub(crate) public_key: String,
    #[serde(default, skip_serializing_if = "GivenOut::is_by_storage")]
    names: GivenOut,
}

/// By whom the names of objects are given out, so that each is taken once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GivenOut {
    /// By the storage: of two who create an object, one is refused.
    #[default]
    Storage,
    /// By the database of the controllers: the storage refuses nobody.
    Database,
}

impl GivenOut {
    fn is_by_storage(&self) -> bool {
        *self == Self::Storage
    }
}

impl Header {
    pub(crate) fn new(vault_id: Uuid, key_id: Uuid, public_key: String, names: GivenOut) -> Self {
        Self {
            format: FORMAT,
            vault_id,
            key_id,
            block_bytes: BLOCK_BYTES,
            max_cell_bytes: MAX_CELL_BYTES,
            cipher_suite: CIPHER_SUITE.to_owned(),
            public_key,
            names,
        }
    }

    /// The storage as this vault has it.
    pub(crate) fn storage(&self, storage: Storage) -> Storage {
        match self.names {
            GivenOut::Storage => storage,
            GivenOut::Database => storage.arbitrated(self.vault_id),
        }
    }

    /// # Errors
    /// [`VaultError::NotAVault`] without one.
    pub(crate) async fn read(storage: &Storage) -> Result<Self, VaultError> {
        let header = match object::read(storage, name::HEADER).await {
            Err(VaultError::Missing { .. }) => return Err(VaultError::NotAVault),
            other => other?,
        };
        let bad = |detail: String| VaultError::BadHeader { detail };
        let header: Self = serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))?;
        let supported = header.format == FORMAT
            && header.block_bytes == BLOCK_BYTES
            && header.max_cell_bytes == MAX_CELL_BYTES
            && header.cipher_suite == CIPHER_SUITE;
        if supported {
            Ok(header)
        } else {
            Err(bad("it is of a newer format: use a newer version of Holdfast".to_owned()))
        }
    }
}
