use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::codegen::http::{HeaderMap, Request, header};
use tonic::{Code, Status};

use holdfast_gateway::OperatorIdentity;
use holdfast_proto::error::{ErrorDetailExt as _, system_error, user_error};

use super::{Credentials, Gate, KeyText};
use crate::store::api_key::ApiKey;

/// Probes have no key.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// A key that was deleted works for so long at most.
const REMEMBERED: Duration = Duration::from_secs(5);
const REMEMBERED_KEYS: usize = 1024;

/// Strangers with made-up keys may keep so many of the database's connections busy, and no more.
const LOOK_UPS_AT_ONCE: usize = 8;

/// Admits operators by their API key, and anybody to the health service.
pub(crate) struct OperatorGate<C> {
    credentials: C,
    look_ups: Semaphore,
    remembered: Mutex<HashMap<[u8; 32], (ApiKey, Instant)>>,
}

impl<C> OperatorGate<C> {
    pub(crate) fn new(credentials: C) -> Self {
        Self { credentials, look_ups: Semaphore::new(LOOK_UPS_AT_ONCE), remembered: Mutex::default() }
    }

    fn recall(&self, hash: &[u8; 32]) -> Option<ApiKey> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(hash).filter(|(_, until)| *until > Instant::now()).map(|(key, _)| key.clone())
    }

    fn remember(&self, hash: [u8; 32], key: ApiKey) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_KEYS {
            remembered.retain(|_, (_, until)| *until > now);
        }
        if remembered.len() < REMEMBERED_KEYS {
            remembered.insert(hash, (key, now + REMEMBERED));
        }
    }
}

impl<C> fmt::Debug for OperatorGate<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorGate")
    }
}

#[tonic::async_trait]
impl<C: Credentials> Gate for OperatorGate<C> {
    async fn admit(&self, request: &mut Request<()>) -> Result<(), Status> {
        if request.uri().path().starts_with(HEALTH) {
            return Ok(());
        }
        let hash = read_key(request.headers())?.sha256();
        let key = match self.recall(&hash) {
            Some(key) => key,
            None => {
                let _permit = self.look_ups.acquire().await.map_err(|_| busy())?;
                let key = self.credentials.find_api_key(&hash).await?.ok_or_else(wrong_key)?;
                self.remember(hash, key.clone());
                key
            }
        };
        request.extensions_mut().insert(OperatorIdentity { name: key.name, role: key.role });
        // From here on nobody has a use for the secret, nor a chance to log it.
        request.headers_mut().remove(header::AUTHORIZATION);
        Ok(())
    }
}

fn read_key(headers: &HeaderMap) -> Result<KeyText, Status> {
    let value = headers.get(header::AUTHORIZATION).ok_or_else(no_key)?;
    let text = value.to_str().map_err(|_| wrong_key())?;
    let (scheme, key) = text.split_once(' ').ok_or_else(wrong_key)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(wrong_key());
    }
    KeyText::parse(key.trim()).ok_or_else(wrong_key)
}

fn no_key() -> Status {
    user_error("no_api_key", "this call needs an API key")
        .action("set HOLDFAST_API_KEY_FILE to a file that holds the key; `holdfast-controller api-key create` makes one")
        .into_status(Code::Unauthenticated)
}

fn wrong_key() -> Status {
    user_error("api_key_refused", "the controller does not know this API key")
        .action("check the file in HOLDFAST_API_KEY_FILE, or make a new key with `holdfast-controller api-key create`")
        .into_status(Code::Unauthenticated)
}

fn busy() -> Status {
    system_error("stopping", "the controller is stopping").retryable().into_status(Code::Unavailable)
}
