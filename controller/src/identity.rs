//! Who calls: the layers in front of the services. On the agents' listener a request is an agent's by its client
//! certificate, on the operators' one an operator's by an API key; the services find the answer in the request's
//! extensions, as [`holdfast_gateway::AgentIdentity`] or [`holdfast_gateway::OperatorIdentity`].

mod agent;
mod key;
mod operator;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use holdfast_proto::ids::AgentId;

use crate::store::Store;
use crate::store::api_key::ApiKey;

pub(crate) use agent::{AgentGate, revoked};
pub(crate) use key::KeyText;
pub(crate) use operator::OperatorGate;

/// How long one request may wait for the answer to who its caller is.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where identities are looked up.
#[tonic::async_trait]
pub(crate) trait Credentials: Send + Sync + 'static {
    async fn agent_is_active(&self, agent: AgentId, serial: &str) -> Result<bool, Status>;
    async fn find_api_key(&self, sha256: &[u8; 32]) -> Result<Option<ApiKey>, Status>;
}

#[tonic::async_trait]
impl Credentials for Store {
    async fn agent_is_active(&self, agent: AgentId, serial: &str) -> Result<bool, Status> {
        Self::agent_is_active(self, agent, serial).await.map_err(Status::from)
    }

    async fn find_api_key(&self, sha256: &[u8; 32]) -> Result<Option<ApiKey>, Status> {
        Self::find_api_key(self, sha256).await.map_err(Status::from)
    }
}

/// Adds the caller's identity to a request, or refuses the request.
#[tonic::async_trait]
pub(crate) trait Gate: Send + Sync + 'static {
    async fn admit(&self, request: &mut Request<()>) -> Result<(), Status>;
}

/// Puts a [`Gate`] in front of all services of a listener.
#[derive(Debug)]
pub(crate) struct GateLayer<G>(Arc<G>);

impl<G> GateLayer<G> {
    pub(crate) fn new(gate: G) -> Self {
        Self(Arc::new(gate))
    }
}

impl<G> Clone for GateLayer<G> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<G, S> Layer<S> for GateLayer<G> {
    type Service = Gated<G, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated { gate: Arc::clone(&self.0), inner }
    }
}

#[derive(Debug)]
pub(crate) struct Gated<G, S> {
    gate: Arc<G>,
    inner: S,
}

impl<G, S: Clone> Clone for Gated<G, S> {
    fn clone(&self) -> Self {
        Self { gate: Arc::clone(&self.gate), inner: self.inner.clone() }
    }
}

impl<G, S> Service<Request<Body>> for Gated<G, S>
where
    G: Gate,
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        // The instance that was polled ready is the one to call.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut head = Request::from_parts(parts, ());
            match tokio::time::timeout(LOOK_UP_TIMEOUT, gate.admit(&mut head)).await {
                Ok(Ok(())) => inner.call(Request::from_parts(head.into_parts().0, body)).await,
                Ok(Err(status)) => Ok(status.into_http()),
                Err(_) => Ok(too_slow().into_http()),
            }
        })
    }
}

fn too_slow() -> Status {
    use holdfast_proto::error::{ErrorDetailExt as _, system_error};

    system_error("identity_timeout", "the controller could not find out in time who is calling")
        .retryable()
        .action("try again; if it stays so, look at the controller's log and its database")
        .into_status(tonic::Code::Unavailable)
}
