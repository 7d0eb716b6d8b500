//! Reading, creating and deleting whole objects.

mod create;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _};

use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN};

use crate::VaultError;
use crate::store::Storage;

pub(crate) use create::{Created, create, finish_stale};

/// Largest object that is read whole: a point with very deep stacks.
const MAX_RECORD: u64 = 256 << 20;
/// No sealed object is smaller.
const LEAST: u64 = (HEADER_LEN + FOOTER_LEN) as u64;

/// Deletes an object, unless somebody did so before. It may come back after a power cut.
pub(crate) async fn delete(store: &dyn ObjectStore, name: &str) -> Result<(), VaultError> {
    match store.delete(&Path::from(name)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(VaultError::storage("delete", name, source)),
    }
}

/// Whether there is such an object.
pub(crate) async fn exists(store: &dyn ObjectStore, name: &str) -> Result<bool, VaultError> {
    match store.head(&Path::from(name)).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(source) => Err(VaultError::storage("look at", name, source)),
    }
}

/// Reads an object whole.
pub(crate) async fn read(storage: &Storage, name: &str) -> Result<Bytes, VaultError> {
    let error = |source| VaultError::unread("read", name, source);
    let result = storage.objects().get(&Path::from(name)).await.map_err(error)?;
    if result.meta.size > MAX_RECORD {
        return Err(VaultError::mismatch(name, format!("{} bytes are too many", result.meta.size)));
    }
    Ok(storage.counted(result.bytes().await.map_err(error)?))
}

/// Reads the last `len` bytes (or all there are) of a sealed object and answers the object's size with them.
pub(crate) async fn read_tail(storage: &Storage, name: &str, len: u64) -> Result<(Bytes, u64), VaultError> {
    let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
    let error = |source| VaultError::unread("read the end of", name, source);
    let result = match storage.objects().get_opts(&Path::from(name), options).await {
        Ok(result) => result,
        // Servers give no end of what is empty.
        Err(source) => return Err(cut_off(storage, name, LEAST).await.unwrap_or_else(|| error(source))),
    };
    let size = result.meta.size;
    Ok((storage.counted(result.bytes().await.map_err(error)?), size))
}

/// Reads exactly this range.
pub(crate) async fn read_range(
    storage: &Storage,
    name: &str,
    range: std::ops::Range<u64>,
) -> Result<Bytes, VaultError> {
    let wanted = range.end - range.start;
    let store = storage.objects();
    let bytes = match store.get_range(&Path::from(name), range.clone()).await {
        Ok(bytes) => storage.counted(bytes),
        Err(source) => {
            let error = || VaultError::unread("read a part of", name, source);
            return Err(cut_off(storage, name, range.end).await.unwrap_or_else(error));
        }
    };
    if bytes.len() as u64 == wanted {
        Ok(bytes)
    } else {
        Err(VaultError::mismatch(name, format!("{} bytes instead of {wanted}", bytes.len())))
    }
}

/// Makes the name of an object durable that a collection may have removed since it was seen, and a sweep its folder. Answers whether it is
/// there.
pub(crate) async fn make_durable(storage: &Storage, name: &str) -> Result<bool, VaultError> {
    let Err(error) = storage.make_durable(name).await else { return Ok(true) };
    if exists(storage.objects(), name).await? { Err(error) } else { Ok(false) }
}

/// That an object which does not read ends before `end`, if it does: only a look at it tells one that was cut off from a storage that
/// fails.
async fn cut_off(storage: &Storage, name: &str, end: u64) -> Option<VaultError> {
    let meta = storage.objects().head(&Path::from(name)).await.ok()?;
    (meta.size < end).then(|| VaultError::mismatch(name, format!("it ends at byte {}", meta.size)))
}

/// Lists the names under a prefix.
pub(crate) async fn list(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<Path>, VaultError> {
    let mut names: Vec<Path> =
        list_meta(store, prefix).await?.into_iter().map(|meta| meta.location).collect();
    names.sort_unstable();
    Ok(names)
}

/// Lists what is under a prefix, in no order.
pub(crate) async fn list_meta(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<ObjectMeta>, VaultError> {
    store
        .list(Some(&Path::from(prefix)))
        .try_collect()
        .await
        .map_err(|source| VaultError::storage("list", prefix, source))
}
