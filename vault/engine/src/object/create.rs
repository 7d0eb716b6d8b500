use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;
use tracing::info;

use crate::problem::Problem;
use crate::store::{Arbitration, Claim, Storage};
use crate::{VaultError, crash_point};

/// Whether a create-only write wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// By this write, whether or not its first answer said so.
    Now,
    /// Another write took the name.
    Before,
}

/// Pauses before a write is tried again are random, up to this for the first one and twice as much for each later one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What an answer to a create-only write says of the name.
enum Answer {
    /// Taken by this write.
    Ours,
    /// Taken, maybe by this write: another try of the same request may have come through before.
    Taken,
    /// Nobody knows.
    Unclear(VaultError),
    /// Nothing was written, nor would be by another try.
    Refused(VaultError),
}

/// Creates an object. When this answers, the name is durable, whoever took it.
///
/// Whose it is, its bytes tell: they hold something random, so nobody else writes the same. A write whose outcome cannot be learnt is
/// tried again under the same name until the storage's patience ends.
///
/// # Errors
/// If the storage fails or what became of the write cannot be learnt: then nothing is known of the name, and it may be taken later.
pub(crate) async fn create(storage: &Storage, name: &str, bytes: Bytes) -> Result<Created, VaultError> {
    let created = match storage.arbitration()? {
        None => write(storage, name, &bytes, PutMode::Create).await?,
        Some(arbitration) => claim_and_write(storage, arbitration, name, &bytes).await?,
    };
    // Also what was created now: its directory may be one that another writer made and has not synced yet.
    storage.make_durable(name).await?;
    Ok(created)
}

/// Creates an object in a storage that lets a name be taken twice. Only who holds the claim to a name writes there, and only what it
/// was claimed for: so it may be written again, by anybody.
async fn claim_and_write(
    storage: &Storage,
    arbitration: Arbitration<'_>,
    name: &str,
    bytes: &Bytes,
) -> Result<Created, VaultError> {
    let claim = Claim::of(name, bytes);
    let holder = arbitration.claim(&claim, storage.patience()).await?;
    crash_point("engine::name_claimed");
    // Only now: what was stored before was let go after that.
    let created = match find(storage, name, bytes).await? {
        Some(true) => Created::Now,
        Some(false) => Created::Before,
        None if holder.hash == claim.hash => write(storage, name, bytes, PutMode::Overwrite).await?,
        None => {
            write(storage, name, holder.content()?, PutMode::Overwrite).await?;
            Created::Before
        }
    };
    arbitration.release(&holder).await;
    Ok(created)
}

/// Stores what was claimed long ago by somebody who was killed, or gave up: as long as that is not there, it may come at any time,
/// whatever was decided since. Answers how much that was.
pub(crate) async fn finish_stale(storage: &Storage) -> Result<usize, VaultError> {
    let Some(arbitration) = storage.arbitration()? else { return Ok(0) };
    // Another time is as good.
    let storage = &storage.clone().with_patience(Duration::ZERO);
    let (mut finished, mut failed) = (0, Ok(()));
    for claim in &arbitration.stale().await? {
        match finish(storage, claim).await {
            Ok(()) => {
                arbitration.release(claim).await;
                finished += 1;
            }
            // The others are not to wait for it.
            Err(error) => failed = Err(error),
        }
    }
    failed.map(|()| finished)
}

async fn finish(storage: &Storage, claim: &Claim) -> Result<(), VaultError> {
    let content = claim.content()?;
    if find(storage, &claim.name, content).await?.is_none() {
        write(storage, &claim.name, content, PutMode::Overwrite).await?;
        storage.make_durable(&claim.name).await?;
        info!(name = claim.name, "what somebody began to store is stored");
    }
    Ok(())
}

async fn write(storage: &Storage, name: &str, bytes: &Bytes, mode: PutMode) -> Result<Created, VaultError> {
    let mut tries = Tries::of(storage);
    loop {
        let unclear = match put(storage, name, bytes, mode.clone()).await {
            Answer::Ours => return Ok(Created::Now),
            Answer::Taken => {
                // Whoever took it may have deleted it since.
                let is_ours = is_stored(storage, name, bytes).await? == Some(true);
                return Ok(if is_ours { Created::Now } else { Created::Before });
            }
            Answer::Refused(error) => return Err(error),
            Answer::Unclear(error) => error,
        };
        match is_stored(storage, name, bytes).await {
            Ok(Some(true)) => return Ok(Created::Now),
            Ok(Some(false)) => return Ok(Created::Before),
            Ok(None) => {}
            // Asked again after the next try.
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
        tries.again(name, unclear, "what became of a write is not known: again").await?;
    }
}

/// What is tried again until a storage's patience ends.
struct Tries {
    give_up_at: Instant,
    pause: Duration,
}

impl Tries {
    fn of(storage: &Storage) -> Self {
        Self { give_up_at: Instant::now() + storage.patience(), pause: FIRST_PAUSE }
    }

    /// Waits before the next try; the error, if there is to be none.
    async fn again(&mut self, name: &str, error: VaultError, why: &str) -> Result<(), VaultError> {
        let wait = self.pause.mul_f64(rand::random());
        if Instant::now() + wait >= self.give_up_at {
            return Err(error);
        }
        info!(name, error = &error as &dyn std::error::Error, "{why}");
        tokio::time::sleep(wait).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

async fn put(storage: &Storage, name: &str, bytes: &Bytes, mode: PutMode) -> Answer {
    let options = PutOptions { mode, ..PutOptions::default() };
    let payload = PutPayload::from_bytes(bytes.clone());
    let error = match storage.objects().put_opts(&Path::from(name), payload, options).await {
        Ok(_) => return Answer::Ours,
        Err(error) => error,
    };
    // A directory says what it did, and what a failed sync left in the page cache proves nothing.
    let is_directory = storage.root().is_some();
    match &error {
        // A failed condition, not merely a conflict: 409 is another request under way, and nobody may have written.
        Error::AlreadyExists { source, .. }
            if is_directory
                || matches!(
                    source.downcast_ref(),
                    Some(Error::Precondition { .. } | Error::NotModified { .. })
                ) =>
        {
            Answer::Taken
        }
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotFound { .. }
        | Error::NotImplemented { .. }
        | Error::NotSupported { .. } => Answer::Refused(VaultError::storage("create", name, error)),
        _ if is_directory => Answer::Refused(VaultError::storage("create", name, error)),
        _ => match VaultError::storage("create", name, error) {
            // What stays so until somebody corrects it, but for a server that is away for a while.
            error @ VaultError::Unusable { problem, .. } if problem != Problem::Unreachable => {
                Answer::Refused(error)
            }
            error => Answer::Unclear(error),
        },
    }
}

/// The same as [`is_stored`]; asked again while the storage does not say it.
async fn find(storage: &Storage, name: &str, bytes: &Bytes) -> Result<Option<bool>, VaultError> {
    let mut tries = Tries::of(storage);
    loop {
        match is_stored(storage, name, bytes).await {
            Err(error @ VaultError::Storage { .. }) => {
                tries.again(name, error, "whether something is stored is not known: again").await?;
            }
            known => return known,
        }
    }
}

/// Whether these bytes are stored under the name; `None` if there is no such object.
async fn is_stored(storage: &Storage, name: &str, bytes: &Bytes) -> Result<Option<bool>, VaultError> {
    let failed = |source| VaultError::storage("look for", name, source);
    let found = match storage.objects().get(&Path::from(name)).await {
        Ok(found) => found,
        Err(error) if storage.says_missing(&error) => return Ok(None),
        Err(error @ Error::NotFound { .. }) if Problem::of(&error).is_none() => {
            let source = Error::Generic { store: "S3", source: Box::new(Unsaid(error)) };
            return Err(VaultError::Storage { operation: "look for", object: name.to_owned(), source });
        }
        Err(error) => return Err(failed(error)),
    };
    if found.meta.size != bytes.len() as u64 {
        return Ok(Some(false));
    }
    Ok(Some(storage.counted(found.bytes().await.map_err(failed)?) == *bytes))
}

#[derive(Debug, thiserror::Error)]
#[error("404 without NoSuchKey: what answered may be something in front of the server that does not know")]
struct Unsaid(#[source] Error);
