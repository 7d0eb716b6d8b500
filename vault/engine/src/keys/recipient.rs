use chrono::{DateTime, Utc};
use uuid::Uuid;

use holdfast_vault_format::recipient::{Recipient, SealedRecipient, Wrap};

use crate::header::Header;
use crate::store::Storage;
use crate::{VaultError, name, object};

/// Each passphrase among them has to be tried with what Argon2id costs.
pub(super) const MAX_RECIPIENTS: usize = 64;

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

pub(super) fn wrong_key(all: &[(RecipientInfo, Option<SealedRecipient>)]) -> VaultError {
    let names: Vec<String> = all.iter().map(|(info, _)| info.to_string()).collect();
    let recipients = if names.is_empty() { "nobody: keys/ is empty".to_owned() } else { names.join(", ") };
    VaultError::WrongKey { recipients }
}

/// All recipients, oldest first; without what is sealed those that cannot be read, and the first.
pub(super) async fn stored(
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
        let decoded = match object::read(storage, path.as_ref()).await {
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

pub(super) fn first_key(header: &Header) -> RecipientInfo {
    RecipientInfo { id: header.key_id, kind: RecipientKind::First, label: String::new(), created_at: None }
}

pub(super) fn info(recipient: &Recipient) -> RecipientInfo {
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
