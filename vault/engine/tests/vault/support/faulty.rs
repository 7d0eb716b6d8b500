//! A store that fails where a test wants it to.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written: the disk is full.
    NoSpace,
    /// It is written, but the answer is lost.
    AnswerLost,
    /// It is written, or deleted, after this long.
    Slow(Duration),
    /// It is written at once, and answered after this long.
    Late(Duration),
    /// It is written, the answer is lost, and a second try finds that the name is taken.
    Repeated,
    /// Reads fail instead of writes, and not for want of the object.
    Unreadable,
    /// Reads fail instead of writes: the disk lost the bytes.
    Lost,
    /// Reads do not end.
    Stuck,
    /// Neither written nor deleted: as if its caller had been killed before.
    Stopped,
    /// Nothing is written, the answer is that of a server with another conditional request under way.
    Conflict,
    /// Nothing is written: nobody listens.
    Away,
    /// It is written over what is there: the server ignores the condition.
    Overwritten,
}

impl Fault {
    fn is_of_reads(self) -> bool {
        matches!(self, Self::Unreadable | Self::Lost | Self::Stuck)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    /// Requests that still succeed.
    good: Arc<AtomicUsize>,
    /// Requests that fail after those.
    bad: Arc<AtomicUsize>,
    prefix: &'static str,
    requests: Arc<AtomicUsize>,
    read: Arc<AtomicU64>,
    after_list: Arc<Mutex<Option<Then>>>,
    failed: Arc<Mutex<Vec<String>>>,
}

struct Then(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Then")
    }
}

impl Faulty {
    /// In front of a directory: of the writes (or reads) of names that start with `prefix`, the first `good` succeed, the next `bad` fail.
    pub(crate) fn new(
        directory: &std::path::Path,
        fault: Fault,
        prefix: &'static str,
        good: usize,
        bad: usize,
    ) -> Arc<Self> {
        let inner = Arc::new(LocalFileSystem::new_with_prefix(directory).unwrap().with_fsync(true));
        Self::over(inner, fault, prefix, good, bad)
    }

    /// The same in front of another store.
    pub(crate) fn over(
        inner: Arc<dyn ObjectStore>,
        fault: Fault,
        prefix: &'static str,
        good: usize,
        bad: usize,
    ) -> Arc<Self> {
        let (good, bad, requests) = (counter(good), counter(bad), counter(0));
        let (read, failed, after_list) = (Arc::default(), Arc::default(), Arc::default());
        Arc::new(Self { inner, fault, good, bad, prefix, requests, read, after_list, failed })
    }

    /// Does this once, when the next listing of what is below the prefix was told to its end.
    pub(crate) fn after_list(&self, then: impl FnOnce() + Send + 'static) {
        *self.after_list.lock().unwrap() = Some(Then(Box::new(then)));
    }

    /// From now on everything succeeds.
    pub(crate) fn heal(&self) {
        self.bad.store(0, Ordering::SeqCst);
    }

    /// From now on this fails.
    pub(crate) fn strike(&self) {
        self.bad.store(usize::MAX, Ordering::SeqCst);
    }

    /// Names that requests were of that failed.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    /// Returns when the last request that is to fail has come.
    pub(crate) async fn struck(&self) {
        let wait = async {
            while self.bad.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("nothing came that could fail");
    }

    /// Requests since the last time, whatever became of them.
    pub(crate) fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }

    /// Bytes that were read since the last time.
    pub(crate) fn read(&self) -> u64 {
        self.read.swap(0, Ordering::SeqCst)
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    fn fails(&self, location: &Path) -> bool {
        let take = |counter: &AtomicUsize| {
            counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        let fails = location.as_ref().starts_with(self.prefix) && !take(&self.good) && take(&self.bad);
        if fails {
            self.failed.lock().unwrap().push(location.to_string());
        }
        fails
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

fn counter(value: usize) -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(value))
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "faulty", source: Box::new(io::Error::from(kind)) }
}

impl ObjectStore for Faulty {
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
        self.count();
        Box::pin(async move {
            if self.fault.is_of_reads() || !self.fails(location) {
                return self.inner.put_opts(location, payload, opts).await;
            }
            match self.fault {
                Fault::NoSpace => Err(failure(io::ErrorKind::StorageFull)),
                Fault::Stopped => Err(failure(io::ErrorKind::BrokenPipe)),
                Fault::Away => {
                    let source = "client error (Connect)".into();
                    Err(Error::Generic { store: "test", source })
                }
                Fault::AnswerLost => {
                    self.inner.put_opts(location, payload, opts).await?;
                    Err(failure(io::ErrorKind::ConnectionReset))
                }
                Fault::Repeated => {
                    self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
                    self.inner.put_opts(location, payload, opts).await
                }
                Fault::Slow(time) => {
                    tokio::time::sleep(time).await;
                    self.inner.put_opts(location, payload, opts).await
                }
                Fault::Late(time) => {
                    let result = self.inner.put_opts(location, payload, opts).await;
                    tokio::time::sleep(time).await;
                    result
                }
                Fault::Conflict => Err(Error::AlreadyExists {
                    path: location.to_string(),
                    source: "409 ConditionalRequestConflict".into(),
                }),
                Fault::Overwritten => {
                    let opts = PutOptions { mode: PutMode::Overwrite, ..opts };
                    self.inner.put_opts(location, payload, opts).await
                }
                Fault::Unreadable | Fault::Lost | Fault::Stuck => unreachable!("a write"),
            }
        })
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
        self.inner.put_multipart_opts(location, opts)
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> Answer<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
    {
        self.count();
        if self.fault.is_of_reads() && self.fails(location) {
            let error = match self.fault {
                Fault::Stuck => return Box::pin(std::future::pending()),
                Fault::Lost => io::Error::from(rustix::io::Errno::IO),
                _ => io::Error::from(io::ErrorKind::Other),
            };
            return Box::pin(async { Err(Error::Generic { store: "faulty", source: Box::new(error) }) });
        }
        Box::pin(async move {
            let is_head = options.head;
            let found = self.inner.get_opts(location, options).await?;
            if !is_head {
                self.read.fetch_add(found.range.end - found.range.start, Ordering::SeqCst);
            }
            Ok(found)
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.count();
        if !matches!(self.fault, Fault::Stopped | Fault::Slow(_)) {
            return self.inner.delete_stream(locations);
        }
        let (inner, this) = (Arc::clone(&self.inner), self.clone());
        locations
            .then(move |location| {
                let (inner, this) = (Arc::clone(&inner), this.clone());
                async move {
                    let location = location?;
                    if this.fails(&location) {
                        match this.fault {
                            Fault::Slow(time) => tokio::time::sleep(time).await,
                            _ => return Err(failure(io::ErrorKind::BrokenPipe)),
                        }
                    }
                    inner.delete(&location).await.map(|()| location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        let listed = self.inner.list(prefix);
        if !prefix.is_some_and(|prefix| prefix.as_ref().starts_with(self.prefix)) {
            return listed;
        }
        let after_list = Arc::clone(&self.after_list);
        let end = futures::stream::poll_fn(move |_| {
            if let Some(Then(then)) = after_list.lock().unwrap().take() {
                then();
            }
            None.into()
        });
        listed.chain(end).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
    {
        self.count();
        self.inner.list_with_delimiter(prefix)
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
        self.inner.copy_opts(from, to, options)
    }
}
