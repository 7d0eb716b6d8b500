//! Who takes a name where the storage would let it be taken twice.
//!
//! A name is claimed for certain bytes before they are stored under it, and whoever has other bytes for it never writes there. A claim
//! is let go when the object is there: it is looked for after claiming, so a name that is taken needs no claim any more.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tracing::debug;
use uuid::Uuid;

use crate::VaultError;

use super::Storage;

/// An object up to this size is kept with its claim until it is stored, so that whoever finds a claim whose owner was killed stores
/// it. Larger are only segments, whose names nobody needs after that.
const KEPT_BYTES: usize = 16 << 20;

/// What somebody who gives names out says when that fails.
pub type ArbiterError = Box<dyn std::error::Error + Send + Sync>;

/// A name, and the bytes that are to be stored under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: String,
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The bytes, up to 16 MiB.
    pub content: Option<Bytes>,
}

impl Claim {
    pub(crate) fn of(name: &str, bytes: &Bytes) -> Self {
        let content = (bytes.len() <= KEPT_BYTES).then(|| bytes.clone());
        Self { name: name.to_owned(), hash: *blake3::hash(bytes).as_bytes(), content }
    }
}

/// Gives the names of vaults out. All gateways of a vault have to ask the same.
pub trait Arbiter: fmt::Debug + Send + Sync {
    /// Answers the claim that holds the name, durably: this one, unless there was another.
    fn claim<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>>;

    /// Forgets exactly this claim, if it is there.
    fn release<'a>(&'a self, vault: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>>;
}

/// For who knows that nobody else writes to the vault.
#[derive(Debug)]
struct Alone;

impl Arbiter for Alone {
    fn claim<'a>(&'a self, _: Uuid, claim: &'a Claim) -> BoxFuture<'a, Result<Claim, ArbiterError>> {
        Box::pin(async move { Ok(claim.clone()) })
    }

    fn release<'a>(&'a self, _: Uuid, _: &'a Claim) -> BoxFuture<'a, Result<(), ArbiterError>> {
        Box::pin(async { Ok(()) })
    }
}

/// An arbiter and the vault it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arbitration<'a> {
    arbiter: &'a dyn Arbiter,
    vault: Uuid,
}

impl Arbitration<'_> {
    /// Answers the claim that holds the name.
    pub(crate) async fn claim(&self, claim: &Claim) -> Result<Claim, VaultError> {
        let claimed = self.arbiter.claim(self.vault, claim).await;
        claimed.map_err(|source| VaultError::Arbiter { object: claim.name.clone(), source })
    }

    /// What cannot be let go now is let go by whoever finds it.
    pub(crate) async fn release(&self, claim: &Claim) {
        if let Err(error) = self.arbiter.release(self.vault, claim).await {
            debug!(name = claim.name, %error, "a name that was taken stays claimed");
        }
    }
}

impl Storage {
    /// The same; who is asked for names in a vault whose storage does not give them out.
    #[must_use]
    pub fn with_arbiter(self, arbiter: Arc<dyn Arbiter>) -> Self {
        Self { arbiter: Some(arbiter), ..self }
    }

    /// The same, for who knows that nobody else creates anything in the vault meanwhile.
    #[must_use]
    pub fn alone(self) -> Self {
        self.with_arbiter(Arc::new(Alone))
    }

    /// The same, for a vault whose names the storage does not give out.
    pub(crate) fn arbitrated(self, vault: Uuid) -> Self {
        Self { arbitrated: Some(vault), ..self }
    }

    /// Who is asked before an object is created; `None` where the storage itself refuses the second one.
    ///
    /// # Errors
    /// [`VaultError::NoArbiter`] if somebody has to be asked and is not known.
    pub(crate) fn arbitration(&self) -> Result<Option<Arbitration<'_>>, VaultError> {
        let Some(vault) = self.arbitrated else { return Ok(None) };
        let arbiter = self.arbiter.as_deref().ok_or(VaultError::NoArbiter)?;
        Ok(Some(Arbitration { arbiter, vault }))
    }
}
