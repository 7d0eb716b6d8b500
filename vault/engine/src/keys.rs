//! Who can unlock a vault. The keys themselves never change: they are wrapped for each recipient in an object of its own, so one
//! can be added or removed without anything else being written again.

mod passphrase;
mod recipient;
mod removal;

use age::x25519;
use chrono::Utc;
use rand::random;
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use holdfast_vault_format::recipient::{MAX_LABEL, Recipient, SECRET_LEN, Wrap};

use crate::header::Header;
use crate::key_file::KeyFile;
use crate::object::{self, Created};
use crate::store::Storage;
use crate::{VaultError, name};

pub use passphrase::{MIN_PASSPHRASE, Passphrase};
use recipient::{MAX_RECIPIENTS, first_key, info, stored, wrong_key};
pub use recipient::{RecipientInfo, RecipientKind};

/// By what a vault is unlocked.
#[derive(Clone, Copy, Debug)]
pub enum Unlock<'k> {
    Key(&'k KeyFile),
    Passphrase(&'k Passphrase),
}

/// A vault's keys, unlocked.
pub struct Keys {
    storage: Storage,
    header: Header,
    secret: Zeroizing<[u8; SECRET_LEN]>,
    used: RecipientInfo,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("vault", &self.header.vault_id)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// # Errors
    /// [`VaultError::WrongKey`] if nothing of what the vault is wrapped for fits.
    pub async fn unlock(storage: Storage, unlock: Unlock<'_>) -> Result<Self, VaultError> {
        let header = Header::read(&storage).await?;
        let (secret, used) = match unlock {
            Unlock::Key(key) => by_key(&storage, &header, key).await?,
            Unlock::Passphrase(passphrase) => by_passphrase(&storage, &header, passphrase).await?,
        };
        if secret[64..] != *header.vault_id.as_bytes() {
            return Err(VaultError::BadHeader { detail: "its id is not that of its keys".to_owned() });
        }
        Ok(Self { storage: header.storage(storage), header, secret, used })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Who can unlock a vault, oldest first.
    ///
    /// # Errors
    /// If the storage cannot be read.
    pub async fn recipients(storage: &Storage) -> Result<Vec<RecipientInfo>, VaultError> {
        let header = Header::read(storage).await?;
        let stored = stored(storage, &header).await?;
        Ok(stored.into_iter().map(|(info, _)| info).collect())
    }

    /// The recipient that was unlocked.
    #[must_use]
    pub fn used(&self) -> &RecipientInfo {
        &self.used
    }

    #[must_use]
    pub fn vault_id(&self) -> Uuid {
        self.header.vault_id
    }

    /// Half of the pair by which points are signed, in hexadecimal digits.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.header.public_key
    }

    pub(crate) fn into_parts(self) -> (Storage, Header, Zeroizing<[u8; SECRET_LEN]>) {
        (self.storage, self.header, self.secret)
    }

    /// Adds whoever has the identity of an age recipient (`age1...`).
    pub async fn add_identity(&self, label: &str, public: &str) -> Result<RecipientInfo, VaultError> {
        let recipient: x25519::Recipient = public.parse().map_err(|error| VaultError::BadInput {
            detail: format!("{public:?} is no age recipient of the form age1...: {error}"),
        })?;
        let wrapping = Zeroizing::new(random::<[u8; 32]>());
        let wrapped = age::encrypt(&recipient, wrapping.as_slice())
            .map_err(|error| VaultError::BadInput { detail: format!("{public:?}: {error}") })?;
        self.add(label, Wrap::Identity { public: recipient.to_string(), wrapped }, &wrapping).await
    }

    /// Adds whoever knows a passphrase.
    pub async fn add_passphrase(
        &self,
        label: &str,
        passphrase: &Passphrase,
    ) -> Result<RecipientInfo, VaultError> {
        let (parameters, wrapping) = passphrase.wrap()?;
        self.add(label, Wrap::Passphrase(parameters), &wrapping).await
    }

    async fn add(&self, label: &str, wrap: Wrap, wrapping: &[u8; 32]) -> Result<RecipientInfo, VaultError> {
        if label.trim().is_empty() || label.len() > MAX_LABEL || label.contains(char::is_control) {
            return Err(VaultError::BadInput {
                detail: format!("a label has 1 to {MAX_LABEL} bytes and no control characters"),
            });
        }
        if stored(&self.storage, &self.header).await?.len() >= MAX_RECIPIENTS {
            return Err(VaultError::BadInput {
                detail: format!("the vault has {MAX_RECIPIENTS} recipients: remove one first"),
            });
        }
        let recipient = Recipient {
            vault: self.header.vault_id,
            key: self.header.key_id,
            id: Uuid::now_v7(),
            created_at: Utc::now().timestamp_micros(),
            label: label.to_owned(),
            wrap,
        };
        let sealed = recipient.seal(wrapping, &self.secret).map_err(VaultError::Seal)?;
        let object = self.name_of(recipient.id);
        if object::create(&self.storage, &object, sealed.into()).await? == Created::Before {
            return Err(VaultError::mismatch(&object, "it is there already"));
        }
        info!(id = %recipient.id, label, "the vault's keys are wrapped for one more recipient");
        Ok(info(&recipient))
    }

    fn name_of(&self, id: Uuid) -> String {
        let key = self.header.key_id;
        if id == key { name::key(key) } else { name::recipient(key, id) }
    }
}

type Unlocked = (Zeroizing<[u8; SECRET_LEN]>, RecipientInfo);

async fn by_key(storage: &Storage, header: &Header, key: &KeyFile) -> Result<Unlocked, VaultError> {
    let first = name::key(header.key_id);
    let damage = match object::read(storage, &first).await {
        Ok(sealed) => match age::decrypt(&key.identity, &sealed) {
            Ok(secret) => {
                let secret = Zeroizing::new(secret);
                let secret = secret.as_slice().try_into().map(Zeroizing::new).map_err(|_| {
                    VaultError::BadHeader { detail: "its key has an unknown form".to_owned() }
                })?;
                return Ok((secret, first_key(header)));
            }
            Err(age::DecryptError::NoMatchingKeys) => None,
            Err(source) => Some(VaultError::BadKeys { object: first, source }),
        },
        Err(VaultError::Missing { .. }) => None,
        Err(error) if error.is_damage() => Some(error),
        Err(error) => return Err(error),
    };
    // Removed, lost or damaged: another one may do.
    match (by_recipient(storage, header, key).await, damage) {
        (Err(error), Some(damage)) if matches!(error, VaultError::WrongKey { .. }) || error.is_damage() => {
            Err(damage)
        }
        (unlocked, _) => unlocked,
    }
}

async fn by_recipient(storage: &Storage, header: &Header, key: &KeyFile) -> Result<Unlocked, VaultError> {
    let own = key.identity.to_public().to_string();
    let all = stored(storage, header).await?;
    let mut refused = None;
    for (info, sealed) in &all {
        let Some(sealed) = sealed else { continue };
        let Wrap::Identity { public, wrapped } = &sealed.recipient.wrap else { continue };
        if *public != own {
            continue;
        }
        let object = name::recipient(header.key_id, info.id);
        let opened = match age::decrypt(&key.identity, wrapped) {
            Ok(wrapping) => {
                let wrapping = Zeroizing::new(wrapping);
                match wrapping.as_slice().try_into() {
                    Ok(wrapping) => {
                        sealed.open(wrapping).map_err(|source| VaultError::damaged(&object, source))
                    }
                    Err(_) => Err(VaultError::mismatch(&object, "its wrapping key has an unknown form")),
                }
            }
            Err(source) => Err(VaultError::BadKeys { object, source }),
        };
        match opened {
            Ok(secret) => return Ok((secret, info.clone())),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| wrong_key(&all)))
}

async fn by_passphrase(
    storage: &Storage,
    header: &Header,
    passphrase: &Passphrase,
) -> Result<Unlocked, VaultError> {
    let all = stored(storage, header).await?;
    for (info, sealed) in &all {
        let Some(sealed) = sealed else { continue };
        let Wrap::Passphrase(parameters) = &sealed.recipient.wrap else { continue };
        // Another passphrase and a changed object look the same.
        if let Ok(secret) = sealed.open(&*passphrase.wrapping(parameters)?) {
            return Ok((secret, info.clone()));
        }
    }
    Err(wrong_key(&all))
}
