//! Large objects of a directory are written past the page cache: nobody reads them soon, and to have the kernel find and fill
//! pages for them takes longer than the disk does.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::buffer::ALIGNMENT;

/// Smaller ones are worth no waiting for the disk.
const LEAST_BYTES: usize = 1 << 20;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A directory that is told of new objects by [`Storage::make_durable`](super::Storage::make_durable), which makes their names durable.
#[derive(Debug)]
pub(super) struct DirectWrites(pub(super) LocalFileSystem);

impl DirectWrites {
    async fn create(&self, location: &Path, object: Bytes) -> Result<PutResult> {
        let path = self.0.path_to_filesystem(location)?;
        let name = location.to_string();
        let created = tokio::task::spawn_blocking(move || create(&path, &object)).await;
        match created.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { path: name, source: Box::new(source) })
            }
            Err(source) => Err(Error::Generic { store: "directory", source: Box::new(source) }),
        }
    }
}

/// Writes an object and links it to its name, once.
fn create(path: &FilePath, object: &[u8]) -> io::Result<()> {
    let (file, staged) = stage(path)?;
    let linked = write(&file, object).and_then(|()| fs::hard_link(&staged, path));
    // What stays is swept.
    let _ = fs::remove_file(&staged);
    linked
}

/// A new file beside the object, named as [`LocalFileSystem`] names them.
fn stage(path: &FilePath) -> io::Result<(File, PathBuf)> {
    let mut number = 1;
    loop {
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().ok_or(error)?)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes and syncs, as far as can be past the page cache.
fn write(file: &File, object: &[u8]) -> io::Result<()> {
    let (whole, _) = object.as_chunks::<ALIGNMENT>();
    let aligned = whole.as_flattened().len();
    let flags = fcntl_getfl(file)?;
    let done = match fcntl_setfl(file, flags | OFlags::DIRECT) {
        Ok(()) => {
            let written = file.write_all_at(&object[..aligned], 0);
            fcntl_setfl(file, flags)?;
            match written {
                Ok(()) => aligned,
                Err(error) if is_not_direct(&error) => 0,
                Err(error) => return Err(error),
            }
        }
        // Not every file system can.
        Err(_) => 0,
    };
    file.write_all_at(&object[done..], done as u64)?;
    file.sync_all()
}

/// The file system wants another alignment, or takes nothing past the page cache.
fn is_not_direct(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

impl fmt::Display for DirectWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ObjectStore for DirectWrites {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Answer<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
    {
        match payload.as_ref() {
            [object] if object.len() >= LEAST_BYTES && opts.mode == PutMode::Create => {
                let object = object.clone();
                Box::pin(self.create(location, object))
            }
            _ => self.0.put_opts(location, payload, opts),
        }
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        opts: PutMultipartOptions,
    ) -> Answer<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
    {
        self.0.put_multipart_opts(location, opts)
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> Answer<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
    {
        self.0.get_opts(location, options)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
    {
        self.0.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'c, 'd>(
        &'a self,
        from: &'b Path,
        to: &'c Path,
        options: CopyOptions,
    ) -> Answer<'d, ()>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        self.0.copy_opts(from, to, options)
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use crate::buffer::Buffers;

    use super::*;

    /// Aligned or not, with whole pages or not: what is written is the object, once, and nothing else is left.
    #[tokio::test]
    async fn large_objects_are_created_whole_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectWrites(LocalFileSystem::new_with_prefix(dir.path()).unwrap().with_fsync(true));
        let buffers = std::sync::Arc::new(Buffers::default());
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        for (number, len) in [LEAST_BYTES, LEAST_BYTES + 1, 3 * LEAST_BYTES - 1].into_iter().enumerate() {
            for skipped in [0, 1] {
                let content: Vec<u8> = rand::random_iter().take(len + skipped).collect();
                let mut buffer = buffers.take(content.len());
                let start = buffer.len();
                buffer.extend_from_slice(&content);
                let object = buffers.lend(buffer, start).slice(skipped..);
                let name = Path::from(format!("seg/new/{number}.{skipped}"));
                store.put_opts(&name, object.clone().into(), create()).await.unwrap();
                assert!(store.get(&name).await.unwrap().bytes().await.unwrap() == object);
                let again = store.put_opts(&name, vec![7; LEAST_BYTES].into(), create()).await;
                assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
                assert!(store.get(&name).await.unwrap().bytes().await.unwrap() == object);
            }
        }
        let files = fs::read_dir(dir.path().join("seg/new")).unwrap();
        assert_eq!(files.count(), 6, "no staging file stays");
    }
}
