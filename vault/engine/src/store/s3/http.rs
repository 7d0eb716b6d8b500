//! The connections to the server: requests wait until the limits allow them, and what the object store would not try again is made
//! to look like what it does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, LengthLimitError, Limited, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::S3Limits;
use super::pace::{Bandwidth, Pace, Size};

/// A request is signed before it waits, and servers take no signature that is older than 15 minutes, give or take their clock.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);
/// What moves no more than this waits for no segment: so do decisions about points, listings, and the ends of segments.
const SMALL: u64 = 64 << 10;
/// Of the requests in flight so many are kept for small ones, at most.
const KEPT_FOR_SMALL: usize = 8;

/// Connects through the limits, which all its clients share.
#[derive(Clone, Debug)]
pub(super) struct PacedConnector {
    in_flight: Arc<Semaphore>,
    /// How many of those may be large.
    large: Arc<Semaphore>,
    requests: Option<Arc<Pace>>,
    bytes: Option<Arc<Bandwidth>>,
}

/// A request that counts as running.
#[derive(Debug)]
struct InFlight {
    _one: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

impl PacedConnector {
    pub(super) fn new(limits: S3Limits) -> Self {
        let in_flight = limits.requests_in_flight.get() as usize;
        let large = (in_flight - (in_flight / 8).clamp(1, KEPT_FOR_SMALL)).max(1);
        Self {
            in_flight: Arc::new(Semaphore::new(in_flight)),
            large: Arc::new(Semaphore::new(large)),
            requests: limits.requests_per_second.map(|count| Arc::new(Pace::new(count.get().into()))),
            bytes: limits.bytes_per_second.map(|count| Arc::new(Bandwidth::new(count.get()))),
        }
    }
}

impl PacedConnector {
    /// Waits until one more request may begin, which moves so many bytes. That is before it begins, and so outside of the time that it
    /// may take.
    async fn admit(&self, size: Size, bytes: u64) -> Result<InFlight, HttpError> {
        let limits = self.clone();
        // In a task of its own: a request that nobody polls for a while must not keep all others from their turn.
        let mut waits = JoinSet::new();
        waits.spawn(tokio::time::timeout(MAX_WAIT, async move { limits.admitted(size, bytes).await }));
        let admitted = waits.join_next().await.and_then(Result::ok).and_then(Result::ok).flatten();
        admitted.ok_or_else(|| HttpError::new(HttpErrorKind::Timeout, Crowded))
    }

    async fn admitted(&self, size: Size, bytes: u64) -> Option<InFlight> {
        let large = match size {
            Size::Small => None,
            Size::Large => Some(permit(&self.large).await?),
        };
        let in_flight = InFlight { _one: permit(&self.in_flight).await?, _large: large };
        if let Some(requests) = &self.requests {
            requests.pass(1).await;
        }
        if let Some(bandwidth) = &self.bytes {
            bandwidth.pass(size, bytes).await;
        }
        Some(in_flight)
    }
}

/// Nobody closes the semaphores.
async fn permit(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).acquire_owned().await.ok()
}

impl HttpConnector for PacedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Paced { client, limits: self.clone() }))
    }
}

#[derive(Debug)]
struct Paced {
    client: HttpClient,
    limits: PacedConnector,
}

impl HttpService for Paced {
    fn call<'a, 'c>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>
    where
        'a: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let is_get = request.method().as_str() == "GET";
            let asked = if is_get { asked(&request) } else { 0 };
            let bytes = request.body().content_length() as u64 + asked;
            let size = if bytes > SMALL { Size::Large } else { Size::Small };
            let in_flight = self.limits.admit(size, bytes).await?;
            let is_listing = request.uri().query().is_some_and(|query| query.contains("list-type="));
            let is_conditional = request.headers().contains_key("if-none-match");
            let bandwidth = self.limits.bytes.clone().filter(|_| is_get);
            let mut debt = Debt { bandwidth, size, paid: asked };
            let mut response = self.client.execute(request).await?;
            if is_conditional && response.status().as_u16() == 409 {
                // "Another conditional request is under way": nothing was decided, so this is a failure to try again after,
                // not a name that is taken.
                *response.status_mut() = UNAVAILABLE.try_into().unwrap_or(response.status());
            }
            let length = response.headers().get("content-length").and_then(|text| text.to_str().ok());
            let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
            if length > SMALL {
                // Such as a whole object, whose length nobody knew.
                debt.size = Size::Large;
            }
            debt.is(length);
            if is_listing {
                let listed = whole(response).await;
                // It came, and nothing of it is paid back.
                debt.used(u64::MAX);
                return listed;
            }
            Ok(response.map(|body| held(body, in_flight, debt)))
        })
    }
}

/// A request is in flight until its body has ended, has failed or is dropped. The object store asks again for the rest of one that
/// failed while it has it still: if that counted, all would wait for each other.
fn held(body: HttpResponseBody, in_flight: InFlight, mut debt: Debt) -> HttpResponseBody {
    let (mut frames, mut in_flight) = (BodyStream::new(body), Some(in_flight));
    let frames = futures::stream::poll_fn(move |context| {
        let frame = ready!(frames.poll_next_unpin(context));
        match &frame {
            Some(Ok(frame)) => debt.used(frame.data_ref().map_or(0, Bytes::len) as u64),
            Some(Err(_)) | None => {
                in_flight.take();
                debt.is(0);
            }
        }
        frame.into()
    });
    HttpResponseBody::new(StreamBody::new(frames))
}

/// How many bytes a request asks for, as far as it says: the object store asks for ranges, and for whole objects only where they are small.
fn asked(request: &HttpRequest) -> u64 {
    let range = request.headers().get("range").and_then(|text| text.to_str().ok());
    let asked = range.and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last: u64 = last.parse().ok()?;
        if first.is_empty() { Some(last) } else { (last + 1).checked_sub(first.parse().ok()?) }
    });
    asked.unwrap_or(0)
}

/// What was paid for bytes that have not come yet. What does not come is paid back: whoever asks again pays again.
struct Debt {
    bandwidth: Option<Arc<Bandwidth>>,
    size: Size,
    paid: u64,
}

impl Debt {
    /// So many are still to come.
    fn is(&mut self, left: u64) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.correct(self.size, self.paid, left);
        }
        self.paid = left;
    }

    fn used(&mut self, came: u64) {
        self.paid = self.paid.saturating_sub(came);
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.is(0);
    }
}

const UNAVAILABLE: u16 = 503;
/// A page of a listing has at most 1000 names of at most 1 KiB.
const MAX_PAGE: usize = 16 << 20;

/// Reads an answer whole, such as a page of a listing: one that is cut off is asked for again only while its request counts as running.
pub(super) async fn whole(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_PAGE).collect().await.map_err(|error| {
        match error.downcast::<HttpError>() {
            Ok(error) => *error,
            Err(error) if error.is::<LengthLimitError>() => {
                HttpError::new(HttpErrorKind::Decode, PageTooLong)
            }
            Err(error) => HttpError::new_boxed(HttpErrorKind::Unknown, error),
        }
    })?;
    Ok(HttpResponse::from_parts(parts, body.to_bytes().into()))
}

#[derive(Debug, thiserror::Error)]
#[error("a page of a listing is longer than {MAX_PAGE} bytes")]
struct PageTooLong;

#[derive(Debug, thiserror::Error)]
#[error("others were before it for {} seconds", MAX_WAIT.as_secs())]
struct Crowded;

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use tokio::time::Instant;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Answers with a body that never comes.
    #[derive(Debug)]
    struct Silent;

    impl HttpService for Silent {
        fn call<'a, 'c>(
            &'a self,
            _: HttpRequest,
        ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>
        where
            'a: 'c,
            Self: 'c,
        {
            let body = StreamBody::new(futures::stream::pending());
            Box::pin(std::future::ready(Ok(HttpResponse::new(HttpResponseBody::new(body)))))
        }
    }

    fn paced(limits: S3Limits) -> HttpClient {
        let limits = PacedConnector::new(limits);
        HttpClient::new(Paced { client: HttpClient::new(Silent), limits })
    }

    fn upload(bytes: u64) -> HttpRequest {
        let mut request = HttpRequest::new(vec![0_u8; usize::try_from(bytes).unwrap()].into());
        *request.method_mut() = http::Method::PUT;
        request
    }

    /// In the background, so that it may wait.
    fn begin(paced: &HttpClient, request: HttpRequest) -> tokio::task::JoinHandle<HttpResponse> {
        let paced = paced.clone();
        tokio::spawn(async move { paced.execute(request).await.unwrap() })
    }

    fn small_requests() -> [HttpRequest; 3] {
        let mut tail = HttpRequest::new(Vec::new().into());
        tail.headers_mut().insert("range", format!("bytes=-{SMALL}").parse().unwrap());
        [HttpRequest::new(Vec::new().into()), upload(300), tail]
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_does_not_wait_behind_segments() {
        let slow = S3Limits { bytes_per_second: NonZeroU64::new(MIB), ..S3Limits::default() };
        let few = S3Limits { requests_in_flight: NonZeroU32::new(4).unwrap(), ..S3Limits::default() };
        for limits in [slow, few] {
            let paced = paced(limits);
            let segments = [(); 20].map(|()| begin(&paced, upload(32 * MIB)));
            tokio::task::yield_now().await;
            assert!(segments.iter().filter(|segment| segment.is_finished()).count() < 4, "{limits:?}");
            let start = Instant::now();
            for request in small_requests() {
                drop(paced.execute(request).await.unwrap());
            }
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}, {limits:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_large_pays_for_what_went_before_it_and_not_for_who_gave_up() {
        let limits = S3Limits { bytes_per_second: NonZeroU64::new(MIB), ..S3Limits::default() };
        let paced = paced(limits);
        let start = Instant::now();
        drop(paced.execute(upload(32 * MIB)).await.unwrap());
        let waiting = [(); 20].map(|()| begin(&paced, upload(32 * MIB)));
        tokio::task::yield_now().await;
        for _ in 0..16 {
            drop(paced.execute(upload(SMALL)).await.unwrap());
        }
        for segment in &waiting {
            segment.abort();
        }
        drop(paced.execute(upload(MIB)).await.unwrap());
        let seconds = start.elapsed().as_secs_f64();
        assert!((32.9..33.1).contains(&seconds), "32 MiB and 16 times 64 KiB: {seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_polls_keeps_no_turn() {
        let paced = paced(S3Limits { requests_per_second: NonZeroU32::new(1), ..S3Limits::default() });
        drop(paced.execute(upload(1)).await.unwrap());
        let mut left = Box::pin(paced.execute(upload(1)));
        assert!(futures::poll!(&mut left).is_pending());
        tokio::task::yield_now().await;
        let next = tokio::time::timeout(Duration::from_secs(9), paced.execute(upload(1))).await;
        drop(next.unwrap().unwrap());
        drop(left.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_bandwidth_waits_no_longer_than_a_signature_is_good_for() {
        let limits = S3Limits { bytes_per_second: NonZeroU64::new(MIB / 32), ..S3Limits::default() };
        let paced = paced(limits);
        drop(paced.execute(upload(32 * MIB)).await.unwrap());
        let late = paced.execute(upload(MIB)).await.unwrap_err();
        assert_eq!(late.kind(), HttpErrorKind::Timeout, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_a_signature_is_good_for() {
        let paced = paced(S3Limits { requests_in_flight: NonZeroU32::MIN, ..S3Limits::default() });
        let request = || HttpRequest::new(Vec::new().into());
        let first = paced.execute(request()).await.unwrap();
        let crowded = paced.execute(request()).await.unwrap_err();
        assert_eq!(crowded.kind(), HttpErrorKind::Timeout, "{crowded:?}");
        drop(first);
        paced.execute(request()).await.unwrap();
    }
}
