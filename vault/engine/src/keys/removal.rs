//! Removing recipients. One is left, whoever removes whom at the same time and is killed.
//!
//! That somebody is removed is decided by a numbered object, and the next number is given only after that one is carried out, by
//! somebody who is still there: whoever finds himself in the newest one removes nobody.

use holdfast_vault_format::container::{Keyring, Kind, open_record, seal_record};
use holdfast_vault_format::keys::DataKey;
use rand::random;
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::object;
use crate::{VaultError, name};

use super::Keys;
use super::recipient::{RecipientInfo, stored};

/// How often somebody else may be faster.
const TRIES: u32 = 32;

impl Keys {
    /// Removes a recipient, but never the one that was used to unlock: so one is left that is known to work. Whoever kept a copy
    /// of what is removed, and its key, can still read the vault. One that was killed is finished by the next.
    ///
    /// # Errors
    /// [`VaultError::BadInput`] if it is the one that was used, or there is none.
    pub async fn remove(&self, id: Uuid) -> Result<RecipientInfo, VaultError> {
        if id == self.used.id {
            return Err(VaultError::BadInput {
                detail: "the key that unlocked the vault cannot be removed: unlock it with another one"
                    .to_owned(),
            });
        }
        let stored = stored(&self.storage, &self.header).await?;
        let found = stored.into_iter().find(|(info, _)| info.id == id);
        let Some((info, _)) = found else {
            return Err(VaultError::BadInput { detail: format!("the vault has no recipient {id}") });
        };
        for _ in 0..TRIES {
            let newest = self.newest_removal().await?;
            let removed = match newest {
                0 => None,
                number => Some(self.carry_out(number).await?),
            };
            self.check_own().await?;
            if removed == Some(id) {
                info!(%id, label = info.label, "a recipient of the vault's keys is removed");
                return Ok(info);
            }
            self.decide_removal(newest + 1, id).await?;
        }
        Err(VaultError::mismatch("keys", "others remove recipients at the same time"))
    }

    /// The number of the newest one, or 0.
    async fn newest_removal(&self) -> Result<u32, VaultError> {
        let names = object::list(self.storage.objects(), "keys").await?;
        Ok(names.iter().filter_map(|path| name::removal_of(path, self.header.key_id)).max().unwrap_or(0))
    }

    /// Decides who is removed next, unless somebody else was faster.
    async fn decide_removal(&self, number: u32, id: Uuid) -> Result<(), VaultError> {
        let object = name::removal(self.header.key_id, number);
        let sealed = seal_record(&self.ring(), Kind::Removal, &object, random(), id.as_bytes())
            .map_err(VaultError::Seal)?;
        object::create(&self.storage, &object, sealed.into()).await.map(drop)
    }

    /// Removes whoever is to be removed, if that is somebody else.
    async fn carry_out(&self, number: u32) -> Result<Uuid, VaultError> {
        let object = name::removal(self.header.key_id, number);
        let sealed = object::read(&self.storage, &object).await?;
        let (kind, body) = open_record(&self.ring(), &object, &sealed)
            .map_err(|source| VaultError::damaged(&object, source))?;
        let id = match Uuid::from_slice(&body) {
            Ok(id) if kind == Kind::Removal => id,
            _ => return Err(VaultError::mismatch(&object, "it is of another kind")),
        };
        if id == self.used.id {
            return Err(VaultError::BadInput {
                detail: "the key that unlocked the vault is being removed: unlock it with another one"
                    .to_owned(),
            });
        }
        object::delete(self.storage.objects(), &self.name_of(id)).await?;
        Ok(id)
    }

    /// Looks whether the recipient that was used is there. What was removed does not come back after a power cut then, and this one,
    /// which somebody may have added who was killed, does not go.
    async fn check_own(&self) -> Result<(), VaultError> {
        let own = self.name_of(self.used.id);
        object::read(&self.storage, &own).await?;
        self.storage.make_durable(&own).await
    }

    fn ring(&self) -> Keyring {
        let mut data_key = Zeroizing::new([0; 32]);
        data_key.copy_from_slice(&self.secret[..32]);
        Keyring { vault: self.header.vault_id, key: DataKey::new(self.header.key_id, *data_key) }
    }
}
