//! Holds requests back until the limits allow them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::S3Limits;

/// Whatever a server says that it sends, nobody waits for more.
const MOST_AT_ONCE: u64 = 256 << 20;
/// A pause saves up no more than this.
const BURST: Duration = Duration::from_secs(1);

/// Connects through the limits, which all its clients share.
#[derive(Clone, Debug)]
pub(super) struct PacedConnector {
    in_flight: Arc<Semaphore>,
    requests: Option<Arc<Pace>>,
    bytes: Option<Arc<Pace>>,
}

impl PacedConnector {
    pub(super) fn new(limits: S3Limits) -> Self {
        let pace = |per_second: u64| Arc::new(Pace::new(per_second));
        Self {
            in_flight: Arc::new(Semaphore::new(limits.requests_in_flight.get() as usize)),
            requests: limits.requests_per_second.map(|count| pace(count.get().into())),
            bytes: limits.bytes_per_second.map(|count| pace(count.get())),
        }
    }
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
            let in_flight = Arc::clone(&self.limits.in_flight).acquire_owned().await;
            if let Some(requests) = &self.limits.requests {
                requests.pass(1).await;
            }
            if let Some(bytes) = &self.limits.bytes {
                bytes.pass(request.body().content_length() as u64).await;
            }
            let (is_put, is_get) = (request.method().as_str() == "PUT", request.method().as_str() == "GET");
            let mut response = self.client.execute(request).await?;
            if is_put && response.status().as_u16() == 409 {
                // "Another conditional request is under way": nothing was decided, so this is a failure to try again after,
                // not a name that is taken.
                *response.status_mut() = UNAVAILABLE.try_into().unwrap_or(response.status());
            }
            if let Some(bytes) = self.limits.bytes.as_ref().filter(|_| is_get) {
                let length = response.headers().get("content-length").and_then(|text| text.to_str().ok());
                bytes.pass(length.and_then(|text| text.parse().ok()).unwrap_or(0)).await;
            }
            // A request is in flight until its body is read or dropped.
            Ok(response.map(|body| {
                HttpResponseBody::new(body.map_frame(move |frame| {
                    let _ = &in_flight;
                    frame
                }))
            }))
        })
    }
}

const UNAVAILABLE: u16 = 503;

/// So much per second: who comes waits until those before are paid for.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    paid_until: Mutex<Instant>,
}

impl Pace {
    fn new(per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Self { per_second: per_second as f64, paid_until: Mutex::new(Instant::now()) }
    }

    async fn pass(&self, amount: u64) {
        let free_at = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let saved = Instant::now().checked_sub(BURST).unwrap_or(*paid_until);
            let free_at = (*paid_until).max(saved);
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let cost = Duration::from_secs_f64(amount.min(MOST_AT_ONCE) as f64 / self.per_second);
            *paid_until = free_at + cost;
            free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_passed_keeps_to_the_rate() {
        let pace = Pace::new(100);
        let start = Instant::now();
        for _ in 0..5 {
            pace.pass(100).await;
        }
        // The first goes at once; each later one when those before it are paid for.
        let seconds = start.elapsed().as_secs_f64();
        assert!((3.99..4.01).contains(&seconds), "{seconds}");
        // A long pause saves up one second's worth, not more.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..4 {
            pace.pass(100).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.99..2.01).contains(&seconds), "{seconds}");
    }
}
