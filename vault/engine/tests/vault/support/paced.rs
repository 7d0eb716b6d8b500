//! A store that asks before each request: who answers decides what comes in between.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What is asked of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Get,
    List,
    Delete,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kind: Kind,
    /// Of a listing, its prefix.
    pub(crate) name: &'a str,
    /// Of a write.
    pub(crate) payload: Option<&'a PutPayload>,
}

/// Who is asked.
pub(crate) trait Pace: fmt::Debug + Send + Sync + 'static {
    /// Returns when the request may go to the storage.
    fn before(&self, request: Request<'_>) -> BoxFuture<'static, ()>;

    /// The storage has answered; returns when whoever asked may hear of it.
    fn after(&self) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }

    /// After how many of so many names the page of a listing ends; the next one shows what is there later.
    fn page_end(&self, _names: usize) -> Option<usize> {
        None
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Paced {
    inner: Arc<dyn ObjectStore>,
    pace: Arc<dyn Pace>,
}

impl Paced {
    pub(crate) fn over(inner: Arc<dyn ObjectStore>, pace: Arc<dyn Pace>) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, pace })
    }

    async fn ask<T>(&self, before: BoxFuture<'static, ()>, request: impl Future<Output = T>) -> T {
        before.await;
        let answer = request.await;
        self.pace.after().await;
        answer
    }

    fn before(&self, kind: Kind, name: &str) -> BoxFuture<'static, ()> {
        self.pace.before(Request { kind, name, payload: None })
    }

    async fn page(&self, prefix: Option<&Path>) -> Vec<Result<ObjectMeta>> {
        let before = self.before(Kind::List, prefix.map_or("", Path::as_ref));
        self.ask(before, self.inner.list(prefix).collect()).await
    }

    async fn pages(self, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let mut names = self.page(prefix.as_ref()).await;
        let Some(end) = self.pace.page_end(names.len()) else { return names };
        names.sort_by_key(|meta| meta.as_ref().ok().map(|meta| meta.location.clone()));
        names.truncate(end);
        let last = names.last().and_then(|meta| meta.as_ref().ok()).map(|meta| meta.location.clone());
        let next = self.page(prefix.as_ref()).await;
        let is_later =
            |meta: &Result<ObjectMeta>| meta.as_ref().ok().map(|meta| &meta.location) > last.as_ref();
        names.extend(next.into_iter().filter(is_later));
        names
    }
}

impl fmt::Display for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("paced store")
    }
}

impl ObjectStore for Paced {
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
        let request = Request { kind: Kind::Put, name: location.as_ref(), payload: Some(&payload) };
        let before = self.pace.before(request);
        Box::pin(self.ask(before, self.inner.put_opts(location, payload, opts)))
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
        let before = self.before(Kind::Get, location.as_ref());
        Box::pin(self.ask(before, self.inner.get_opts(location, options)))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    let before = this.before(Kind::Delete, location.as_ref());
                    this.ask(before, this.inner.delete(&location)).await.map(|()| location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(self.clone().pages(prefix.cloned())).flat_map(stream::iter).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
    {
        let before = self.before(Kind::List, prefix.map_or("", Path::as_ref));
        Box::pin(self.ask(before, self.inner.list_with_delimiter(prefix)))
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

/// Holds one request back until it is let go; all others pass.
#[derive(Debug)]
pub(crate) struct Hold {
    kind: Kind,
    part: String,
    /// Of those that fit, so many pass before. `None`: none is to be held any more, or not yet.
    before: Mutex<Option<usize>>,
    came: Notify,
    go: Arc<Notify>,
}

impl Hold {
    /// A request of this kind whose name holds `part`. None is held before [`Hold::after`].
    pub(crate) fn new(kind: Kind, part: impl Into<String>) -> Arc<Self> {
        let (came, go) = (Notify::new(), Arc::default());
        Arc::new(Self { kind, part: part.into(), before: Mutex::new(None), came, go })
    }

    /// From now on, so many pass, and the next one is held.
    pub(crate) fn after(&self, others: usize) {
        *self.before.lock().unwrap() = Some(others);
    }

    /// Returns when the request has come.
    pub(crate) async fn has_come(&self) {
        let wait = tokio::time::timeout(Duration::from_secs(60), self.came.notified());
        wait.await.unwrap_or_else(|_| panic!("nothing was asked for that fits {self:?}"));
    }

    pub(crate) fn let_go(&self) {
        self.go.notify_one();
    }
}

impl Pace for Hold {
    fn before(&self, request: Request<'_>) -> BoxFuture<'static, ()> {
        let passes = || futures::future::ready(()).boxed();
        if request.kind != self.kind || !request.name.contains(&self.part) {
            return passes();
        }
        let mut before = self.before.lock().unwrap();
        let left = before.take();
        *before = left.and_then(|left| left.checked_sub(1));
        if left != Some(0) {
            return passes();
        }
        self.came.notify_one();
        let go = Arc::clone(&self.go);
        async move { go.notified().await }.boxed()
    }
}
