//! Who can unlock a vault. The keys themselves never change: they are wrapped for each recipient in an object of its own, so one
//! can be added or removed without anything else being written again.

mod removal;

use age::x25519;
use argon2::{Algorithm, Argon2, Params, Version};
use chrono::{DateTime, Utc};
use rand::random;
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use holdfast_vault_format::recipient::{Argon2id, MAX_LABEL, Recipient, SECRET_LEN, SealedRecipient, Wrap};

use crate::header::Header;
use crate::key_file::KeyFile;
use crate::object::{self, Created};
use crate::store::Storage;
use crate::{VaultError, name};

/// RFC 9106, 4: the second recommended choice.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Shorter passphrases can be guessed, whatever a guess costs.
pub const MIN_PASSPHRASE: usize = 12;
/// Each passphrase among them has to be tried with what Argon2id costs.
const MAX_RECIPIENTS: usize = 64;

/// By what a vault is unlocked.
#[derive(Clone, Copy, Debug)]
pub enum Unlock<'k> {
    Key(&'k KeyFile),
    Passphrase(&'k Passphrase),
}

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
    /// As [`KeyFile::load`].
    pub fn load(path: &std::path::Path) -> Result<Self, VaultError> {
        let text = crate::key_file::read_private(path)?;
        Ok(Self::new(text.lines().next().unwrap_or_default().to_owned()))
    }

    fn wrapping(&self, parameters: &Argon2id) -> Result<Zeroizing<[u8; 32]>, VaultError> {
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

/// A recipient as everybody can see it: nothing of it is certain before somebody unlocked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientInfo {
    pub id: Uuid,
    pub kind: RecipientKind,
    /// Empty for the first one.
    pub label: String,
    /// `None` for the first one.
    pub created_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientKind {
    /// The key file that the vault was made with.
    First,
    /// Whoever has the identity of this age recipient.
    Identity {
        public: String,
    },
    Passphrase,
    /// It is there and cannot be read.
    Damaged {
        reason: String,
    },
}

impl std::fmt::Display for RecipientInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            RecipientKind::First => f.write_str("the first key file"),
            RecipientKind::Identity { public } => write!(f, "{:?} ({public})", self.label),
            RecipientKind::Passphrase => write!(f, "{:?} (passphrase)", self.label),
            RecipientKind::Damaged { .. } => write!(f, "{} (damaged)", self.id),
        }
    }
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
        if passphrase.0.chars().count() < MIN_PASSPHRASE {
            return Err(VaultError::BadInput {
                detail: format!("a passphrase has at least {MIN_PASSPHRASE} characters"),
            });
        }
        let parameters = Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: random() };
        let wrapping = passphrase.wrapping(&parameters)?;
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
    let damage = match object::read(storage.objects(), &first).await {
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

fn wrong_key(all: &[(RecipientInfo, Option<SealedRecipient>)]) -> VaultError {
    let names: Vec<String> = all.iter().map(|(info, _)| info.to_string()).collect();
    let recipients = if names.is_empty() { "nobody: keys/ is empty".to_owned() } else { names.join(", ") };
    VaultError::WrongKey { recipients }
}

/// All recipients, oldest first; without what is sealed those that cannot be read, and the first.
async fn stored(
    storage: &Storage,
    header: &Header,
) -> Result<Vec<(RecipientInfo, Option<SealedRecipient>)>, VaultError> {
    let mut all = Vec::new();
    for path in object::list(storage.objects(), "keys").await? {
        if path.filename() == Some(&*header.key_id.to_string()) {
            all.push((first_key(header), None));
            continue;
        }
        let Some(id) = name::recipient_of(&path, header.key_id) else { continue };
        let decoded = match object::read(storage.objects(), path.as_ref()).await {
            // Removed since.
            Err(VaultError::Missing { .. }) => continue,
            Err(error) if error.is_damage() => Err(error.to_string()),
            Err(error) => return Err(error),
            Ok(bytes) => SealedRecipient::decode(&bytes).map_err(|error| error.to_string()),
        };
        let of = (header.vault_id, header.key_id, id);
        all.push(match decoded {
            Ok(sealed) if (sealed.recipient.vault, sealed.recipient.key, sealed.recipient.id) == of => {
                (info(&sealed.recipient), Some(sealed))
            }
            other => {
                let reason = other.err().unwrap_or_else(|| "it is another vault's".to_owned());
                let kind = RecipientKind::Damaged { reason };
                (RecipientInfo { id, kind, label: String::new(), created_at: None }, None)
            }
        });
        if all.len() > MAX_RECIPIENTS * 2 {
            return Err(VaultError::mismatch("keys", "there are too many recipients"));
        }
    }
    all.sort_by_key(|(info, _)| info.created_at);
    Ok(all)
}

fn first_key(header: &Header) -> RecipientInfo {
    RecipientInfo { id: header.key_id, kind: RecipientKind::First, label: String::new(), created_at: None }
}

fn info(recipient: &Recipient) -> RecipientInfo {
    let kind = match &recipient.wrap {
        Wrap::Identity { public, .. } => RecipientKind::Identity { public: public.clone() },
        Wrap::Passphrase(_) => RecipientKind::Passphrase,
    };
    RecipientInfo {
        id: recipient.id,
        kind,
        label: recipient.label.clone(),
        created_at: DateTime::from_timestamp_micros(recipient.created_at),
    }
}
