use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Counts the calls of a listener by method and code. A method that no descriptor knows is counted as `unknown`, so
/// that strangers cannot make up series.
#[derive(Clone, Debug)]
pub(crate) struct CountRequests {
    listener: &'static str,
    methods: Arc<HashSet<String>>,
}

impl CountRequests {
    /// `descriptors` are encoded file descriptor sets.
    pub(crate) fn new(listener: &'static str, descriptors: &[&[u8]]) -> Self {
        let methods = descriptors.iter().flat_map(|encoded| method_paths(encoded)).collect();
        Self { listener, methods: Arc::new(methods) }
    }
}

fn method_paths(encoded: &[u8]) -> Vec<String> {
    let Ok(set) = FileDescriptorSet::decode(encoded) else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { layer: self.clone(), inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    layer: CountRequests,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let method = self.layer.methods.get(path).map_or("unknown", String::as_str).to_owned();
        let mut call = Call::begin(self.layer.listener, method);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // A refused call has its code in the headers, any other one behind the body.
            call.read(response.headers());
            Ok(response.map(|inner| Body::new(CountedBody { inner, call })))
        })
    }
}

/// One call, counted when it is dropped: then it is over, whichever way.
struct Call {
    listener: &'static str,
    method: String,
    code: Option<Code>,
}

impl Call {
    fn begin(listener: &'static str, method: String) -> Self {
        metrics::gauge!("holdfast_requests_in_flight", "listener" => listener).increment(1.0);
        Self { listener, method, code: None }
    }

    fn read(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.code = Some(status.code());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Nothing was said to the end: the client went away.
        let code = code_name(self.code.unwrap_or(Code::Cancelled));
        let method = std::mem::take(&mut self.method);
        metrics::gauge!("holdfast_requests_in_flight", "listener" => self.listener).decrement(1.0);
        metrics::counter!("holdfast_requests_total", "listener" => self.listener, "method" => method, "code" => code)
            .increment(1);
    }
}

struct CountedBody {
    inner: Body,
    call: Call,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.read(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.code = Some(status.code()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_methods_of_the_contract() {
        let counted = CountRequests::new("test", &[holdfast_proto::FILE_DESCRIPTOR_SET]);
        assert!(counted.methods.contains("/holdfast.v1.AgentService/Enroll"));
        assert!(counted.methods.contains("/holdfast.v1.TransferService/SendCells"));
        assert!(!counted.methods.contains("/holdfast.v1.AgentService/Nothing"));
    }
}
