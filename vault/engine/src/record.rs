//! Objects that are nothing but a body.

use bytes::Bytes;

use holdfast_vault_format::container::{Kind, open_record, seal_record};

use crate::object::{self, Created};
use crate::{Vault, VaultError};

impl Vault {
    /// Reads one, whatever it is.
    pub(crate) async fn read_any_record(&self, object: &str) -> Result<(Kind, Vec<u8>), VaultError> {
        let bytes = object::read(self.storage(), object).await?;
        open_record(&self.inner.ring, object, &bytes).map_err(|source| VaultError::damaged(object, source))
    }

    /// Reads one of this kind.
    pub(crate) async fn read_record(&self, object: &str, wanted: Kind) -> Result<Vec<u8>, VaultError> {
        match self.read_any_record(object).await? {
            (kind, body) if kind == wanted => Ok(body),
            _ => Err(VaultError::mismatch(object, "it is of another kind")),
        }
    }

    /// Creates one. After an error nothing is known.
    pub(crate) async fn create_record(
        &self,
        object: &str,
        kind: Kind,
        body: &[u8],
    ) -> Result<Created, VaultError> {
        Ok(self.create_sized_record(object, kind, body).await?.0)
    }

    /// The same; answers its stored length as well.
    pub(crate) async fn create_sized_record(
        &self,
        object: &str,
        kind: Kind,
        body: &[u8],
    ) -> Result<(Created, u64), VaultError> {
        let sealed =
            seal_record(&self.inner.ring, kind, object, rand::random(), body).map_err(VaultError::Seal)?;
        self.check_mounted().await?;
        let bytes = Bytes::from(sealed);
        let stored = bytes.len() as u64;
        let created = loop {
            match object::create(self.storage(), object, bytes.clone()).await {
                Err(error)
                    if error.is_no_space() && Self::may_spend(kind) && self.spend_reserve().await? => {}
                created => break created?,
            }
        };
        // Once more: what was created where the vault is not must not count.
        self.check_mounted().await?;
        Ok((created, stored))
    }
}
