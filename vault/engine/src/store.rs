//! Where a vault's objects are kept, and when their names are durable.

mod arbiter;
mod direct;
mod s3;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use rustix::fs::{Advice, fadvise};
use uuid::Uuid;

use crate::VaultError;
use crate::problem::Problem;
use direct::DirectWrites;

pub(crate) use arbiter::Arbitration;
pub use arbiter::{Arbiter, Claim};
pub(crate) use s3::{Answered, Bypass, ObjectLock};
pub use s3::{S3, S3Addressing, S3Credentials, S3Limits, S3Location, S3ObjectLock, S3Transport};

/// How long a store is asked again what became of a write, unless its settings say otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// By what a storage says for sure that there is no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// By the error that means so.
    Error,
    /// By the code that comes with it: what answers may not be the storage.
    Code,
}

/// Where a vault's objects are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    objects: Arc<dyn ObjectStore>,
    /// Of a directory. There, unlike in an object store, a name can be seen before it is durable.
    root: Option<PathBuf>,
    patience: Duration,
    absence: Absence,
    /// Of a bucket that is to enforce locks.
    object_lock: Option<Arc<ObjectLock>>,
    /// The vault, if it is one whose names the storage does not give out.
    arbitrated: Option<Uuid>,
    arbiter: Option<Arc<dyn Arbiter>>,
    /// Bytes that were read through this handle and its clones.
    read: Arc<AtomicU64>,
}

impl Storage {
    /// Objects as files below `path`, which must exist. A file is durable, its directory entry too, before a write is
    /// acknowledged.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn directory(path: &Path) -> Result<Self, VaultError> {
        let failed = |source| VaultError::Directory { path: path.display().to_string(), source };
        let root = path.canonicalize().map_err(failed)?;
        let store =
            LocalFileSystem::new_with_prefix(&root).map_err(|source| failed(io::Error::other(source)))?;
        let objects = Arc::new(DirectWrites(store.with_fsync(true)));
        Ok(Self { root: Some(root), ..Self::over(objects) })
    }

    /// Any store in which a name is durable as soon as it can be seen.
    #[must_use]
    pub fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            root: None,
            patience: PATIENCE,
            absence: Absence::Error,
            object_lock: None,
            arbitrated: None,
            arbiter: None,
            read: Arc::default(),
        }
    }

    /// The same, but a write whose outcome is not known is tried again for this long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same place, reached through another store.
    #[must_use]
    pub fn through(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { objects: wrap(self.objects), ..self }
    }

    /// The same place, through a handle of which is known what was read through it.
    pub(crate) fn metered(&self) -> Self {
        Self { read: Arc::default(), ..self.clone() }
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn counted(&self, read: Bytes) -> Bytes {
        self.read.fetch_add(read.len() as u64, Ordering::Relaxed);
        read
    }

    /// The directory, if it is one.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// How long after its first try a write whose outcome is not known may be tried again.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether an error says that there is no such object. Where names can be taken twice that has to be sure: what is written to such a
    /// name goes over what is there.
    pub(crate) fn says_missing(&self, error: &object_store::Error) -> bool {
        let is_missing =
            matches!(error, object_store::Error::NotFound { .. }) && Problem::of(error).is_none();
        let is_sure = self.absence == Absence::Error || Problem::is_no_such_key(error);
        is_missing && (is_sure || !self.is_arbitrated())
    }

    /// What enforces locks, if it is to.
    pub(crate) fn object_lock(&self) -> Option<&ObjectLock> {
        self.object_lock.as_deref()
    }

    pub(crate) fn objects(&self) -> &dyn ObjectStore {
        self.objects.as_ref()
    }

    /// Lets what is read of an object next come from its disk, as far as its file system can: what was just written is still in
    /// memory, whatever the disk made of it.
    pub(crate) async fn forget_cached(&self, name: &str) -> Result<(), VaultError> {
        let Some(path) = self.root().map(|root| root.join(name)) else { return Ok(()) };
        let forget = move || match std::fs::File::open(path) {
            // Reading it will tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            file => Ok(fadvise(file?, 0, None, Advice::DontNeed)?),
        };
        on_disk(forget).await.map_err(|source| VaultError::unread("read back", name, source))
    }

    /// Makes the name of an object durable that is there already: whoever created it may have been killed between linking
    /// and syncing it, or may only now be syncing the directories that it made. Its bytes are durable: they are synced before
    /// the name exists.
    ///
    /// Not a second try of a sync that failed: what Linux forgets after a failed `fsync` is file data, which has no name
    /// then. A file system that cannot write its directories (ext4, XFS, btrfs) stops itself, and syncs go on failing.
    ///
    /// # Errors
    /// If a directory cannot be synced: then nothing may be built on the name.
    pub(crate) async fn make_durable(&self, name: &str) -> Result<(), VaultError> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let leaf = root.join(name);
        let sync = move || {
            leaf.ancestors()
                .skip(1)
                .take_while(|dir| dir.starts_with(&root))
                .try_for_each(|dir| std::fs::File::open(dir)?.sync_all())
        };
        on_disk(sync).await.map_err(|source| VaultError::storage("make durable", name, source))
    }
}

/// Does what a directory needs besides its objects.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, object_store::Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|source| object_store::Error::Generic { store: "directory", source: source.into() })
}
