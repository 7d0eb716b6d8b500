use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use super::paced::{Kind, Pace, Request};

pub(crate) const ANSWER: Duration = Duration::from_millis(80);

/// A storage that answers late what is asked about segments.
#[derive(Debug, Default)]
pub(crate) struct Slow {
    under_way: Arc<AtomicUsize>,
    most: AtomicUsize,
}

impl Slow {
    /// Requests that were under way at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Pace for Slow {
    fn before(&self, request: Request<'_>) -> BoxFuture<'static, ()> {
        if request.kind != Kind::Get || !request.name.starts_with("seg/") {
            return ready(()).boxed();
        }
        let under_way = Arc::clone(&self.under_way);
        self.most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let answer = async move {
            tokio::time::sleep(ANSWER).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
        };
        answer.boxed()
    }
}
