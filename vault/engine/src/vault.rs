use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use object_store::ObjectStore;
use object_store::path::Path;
use uuid::Uuid;
use zeroize::Zeroizing;

use holdfast_vault_format::container::Keyring;
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::recipient::SECRET_LEN;
use holdfast_vault_format::record::Signer;

use crate::condemned::CondemnedCache;
use crate::directory::{Cache, Replaced};
use crate::header::{GivenOut, Header};
use crate::key_file::KeyFile;
use crate::keys::{Keys, Unlock};
use crate::object::{self, Created};
use crate::samples::Samples;
use crate::settled::Settled;
use crate::store::Storage;
use crate::{VaultError, name, probe};

/// An unlocked vault. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    storage: Arc<Storage>,
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) ring: Keyring,
    pub(crate) signer: Arc<Signer>,
    pub(crate) segments: Cache,
    pub(crate) replaced: Replaced,
    /// `None`: nothing is looked for.
    pub(crate) samples: Option<Arc<Samples>>,
    pub(crate) condemned: CondemnedCache,
    pub(crate) settled: Settled,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Vault {
    /// Makes a vault in an empty store. `vault.json` is written last: without it there is no vault, and what an interrupted
    /// try left under `keys/` does no harm.
    ///
    /// # Errors
    /// [`VaultError::CreatesTwice`] if the storage does not give names out.
    pub async fn create(storage: Storage, key: &KeyFile) -> Result<Self, VaultError> {
        Self::refuse_occupied(&storage).await?;
        if storage.root().is_none() {
            probe::refuse_overwriting(&storage).await?;
        }
        Self::create_in(storage, key, GivenOut::Storage).await
    }

    /// The same where the storage does not give names out, and the controllers' database will. Only one may be at it: of two, the later
    /// vault takes the place of the other.
    pub async fn create_arbitrated(storage: Storage, key: &KeyFile) -> Result<Self, VaultError> {
        Self::refuse_occupied(&storage).await?;
        Self::create_in(storage, key, GivenOut::Database).await
    }

    async fn refuse_occupied(storage: &Storage) -> Result<(), VaultError> {
        if Self::is_in(storage).await? {
            return Err(VaultError::AlreadyExists);
        }
        refuse_foreign_files(storage.objects()).await
    }

    async fn create_in(storage: Storage, key: &KeyFile, names: GivenOut) -> Result<Self, VaultError> {
        let (vault_id, key_id) = (Uuid::new_v4(), Uuid::new_v4());
        let writing = match names {
            GivenOut::Storage => storage.clone(),
            GivenOut::Database => storage.clone().arbitrated(vault_id).alone(),
        };
        probe::refuse_unenforced(&writing).await?;
        let data_key = Zeroizing::new(rand::random::<[u8; 32]>());
        let seed = Zeroizing::new(rand::random::<[u8; 32]>());
        let signer = Signer::from_seed(&seed).ok_or(VaultError::Broken)?;
        let mut wrapped = Zeroizing::new(Vec::with_capacity(SECRET_LEN));
        wrapped.extend_from_slice(data_key.as_slice());
        wrapped.extend_from_slice(seed.as_slice());
        wrapped.extend_from_slice(vault_id.as_bytes());
        let sealed = age::encrypt(&key.identity.to_public(), &wrapped)
            .map_err(|error| VaultError::BadHeader { detail: error.to_string() })?;
        object::create(&writing, &name::key(key_id), sealed.into()).await?;
        let header = Header::new(vault_id, key_id, hex::encode(signer.public_key()), names);
        let json = serde_json::to_vec_pretty(&header)
            .map_err(|error| VaultError::BadHeader { detail: error.to_string() })?;
        match object::create(&writing, name::HEADER, json.into()).await? {
            Created::Now => Self::open_with(Keys::unlock(storage, Unlock::Key(key)).await?),
            Created::Before => Err(VaultError::AlreadyExists),
        }
    }

    /// Whether there is a vault, whatever its key.
    ///
    /// # Errors
    /// If the storage cannot be read, so that nobody knows.
    pub async fn is_in(storage: &Storage) -> Result<bool, VaultError> {
        match object::read(storage, name::HEADER).await {
            Ok(_) => Ok(true),
            Err(VaultError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Unlocks a vault with a key file. A storage that has to enforce locks is tried each time: a server, its bucket or what the key may
    /// do can have changed since.
    ///
    /// # Errors
    /// [`VaultError::NotEnforced`] if it does not.
    pub async fn open(storage: Storage, key: &KeyFile) -> Result<Self, VaultError> {
        let keys = Keys::unlock(storage, Unlock::Key(key)).await?;
        let storage = keys.storage();
        if storage.object_lock().is_some() && storage.arbitration()?.is_none() {
            // Object lock takes versions, and there are servers that let a name be taken twice as soon as they keep them.
            probe::refuse_overwriting(storage).await?;
        }
        probe::refuse_unenforced(storage).await?;
        Self::open_with(keys)
    }

    /// Opens a vault whose keys are unlocked.
    ///
    /// # Errors
    /// [`VaultError::BadHeader`] if `vault.json` does not fit its keys.
    pub fn open_with(keys: Keys) -> Result<Self, VaultError> {
        let (storage, header, secret) = keys.into_parts();
        let (mut data_key, mut seed) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        data_key.copy_from_slice(&secret[..32]);
        seed.copy_from_slice(&secret[32..64]);
        let bad = || VaultError::BadHeader { detail: "its public key is not that of its keys".to_owned() };
        let signer = Signer::from_seed(&seed).ok_or_else(bad)?;
        if hex::encode(signer.public_key()) != header.public_key {
            return Err(bad());
        }
        let ring = Keyring { vault: header.vault_id, key: DataKey::new(header.key_id, *data_key) };
        Ok(Self {
            storage: Arc::new(storage),
            inner: Arc::new(Inner {
                ring,
                signer: Arc::new(signer),
                segments: Cache::default(),
                replaced: Replaced::default(),
                samples: None,
                condemned: CondemnedCache::default(),
                settled: Settled::default(),
            }),
        })
    }

    /// The same vault; backups refer to cells that are stored already, as far as these samples lead to them.
    #[must_use]
    pub fn deduplicating(&self, samples: Arc<Samples>) -> Self {
        self.renewed(Some(samples))
    }

    /// The same vault with nothing in memory of what was read.
    pub(crate) fn renewed(&self, samples: Option<Arc<Samples>>) -> Self {
        let inner = &self.inner;
        Self {
            storage: Arc::clone(&self.storage),
            inner: Arc::new(Inner {
                ring: inner.ring.clone(),
                signer: inner.signer.clone(),
                segments: Cache::default(),
                replaced: Replaced::default(),
                samples,
                condemned: CondemnedCache::default(),
                settled: Settled::default(),
            }),
        }
    }

    /// The same vault with the same in memory, through a handle of which is known what was read through it.
    pub(crate) fn metered(&self) -> Self {
        Self { storage: Arc::new(self.storage.metered()), inner: Arc::clone(&self.inner) }
    }

    #[must_use]
    pub fn id(&self) -> Uuid {
        self.inner.ring.vault
    }

    /// Stores what others claimed a name for ten minutes ago or more, and did not store. Nothing in a vault whose storage gives names
    /// out.
    pub async fn finish_claims(&self) -> Result<usize, VaultError> {
        object::finish_stale(self.storage()).await
    }

    /// Removes what the storage was tried with some time before `now`, unless it still retains that. What cannot be removed now only takes
    /// the room of a few bytes.
    pub async fn sweep_probes(&self, now: DateTime<Utc>) {
        probe::sweep(self.storage(), now).await;
    }

    /// Whether the controllers' database gives its names out.
    #[must_use]
    pub fn is_arbitrated(&self) -> bool {
        self.storage().is_arbitrated()
    }

    /// Machines that ever began a backup here.
    pub async fn machines(&self) -> Result<Vec<Uuid>, VaultError> {
        let mut machines = Vec::new();
        for prefix in ["open", "points"] {
            let found = self
                .store()
                .list_with_delimiter(Some(&Path::from(prefix)))
                .await
                .map_err(|source| VaultError::storage("list", prefix, source))?;
            machines.extend(
                found.common_prefixes.iter().filter_map(|path| Uuid::parse_str(path.filename()?).ok()),
            );
        }
        machines.sort_unstable();
        machines.dedup();
        Ok(machines)
    }

    /// Checks that this vault is still the one that was opened: a folder whose file system was unmounted is an empty
    /// folder, in which everything is missing and anything can be created.
    ///
    /// # Errors
    /// [`VaultError::Gone`] if it is not there, or its disk does not give it.
    pub async fn check_present(&self) -> Result<(), VaultError> {
        let header = match object::read(self.storage(), name::HEADER).await {
            // A disk that gives nothing says nothing about what is on it.
            Err(VaultError::Missing { .. } | VaultError::Unreadable { .. }) => return Err(VaultError::Gone),
            other => other?,
        };
        let header: Header = serde_json::from_slice(&header)
            .map_err(|error| VaultError::BadHeader { detail: error.to_string() })?;
        if header.vault_id == self.id() { Ok(()) } else { Err(VaultError::Gone) }
    }

    /// The same by what the disk below says now, for whoever is about to call something damaged: a file system whose disk failed still
    /// shows what is in memory, such as `vault.json`.
    ///
    /// # Errors
    /// As [`Vault::check_present`].
    pub async fn check_readable(&self) -> Result<(), VaultError> {
        match self.storage.forget_cached(name::HEADER).await {
            Err(VaultError::Unreadable { .. }) => return Err(VaultError::Gone),
            forgotten => forgotten?,
        }
        self.check_present().await
    }

    /// [`Self::check_present`] where it can happen between one write and the next: of a bucket nothing is unmounted.
    ///
    /// # Errors
    /// As [`Vault::check_present`].
    pub async fn check_mounted(&self) -> Result<(), VaultError> {
        if self.storage.root().is_some() { self.check_present().await } else { Ok(()) }
    }

    pub(crate) fn store(&self) -> &dyn ObjectStore {
        self.storage.objects()
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}

async fn refuse_foreign_files(store: &dyn ObjectStore) -> Result<(), VaultError> {
    let mut objects = store.list(None);
    while let Some(object) = objects.next().await {
        let object = object.map_err(|source| VaultError::storage("list", "", source))?;
        // A directory's `lost+found` is not listed; the keys and probes of an interrupted try are. Consoles mark a folder in a
        // bucket by an object that is called like it.
        let ours =
            ["keys", name::PROBES].iter().any(|ours| object.location.prefix_matches(&Path::from(*ours)));
        if !ours && !object.location.as_ref().is_empty() {
            return Err(VaultError::NotEmpty);
        }
    }
    Ok(())
}
