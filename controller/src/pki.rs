//! The controller's own certificate authority: two files, the same on all controllers. It signs the certificates of
//! agents (for [`crate::api`]) and of the two listeners, and nothing else.

mod ca;
mod error;
mod publish;
mod server;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

pub(crate) use ca::{AgentCertificate, Ca, CaOrigin, RequestedKey, check_host};
pub(crate) use error::PkiError;
pub(crate) use server::ServerIdentity;
pub(crate) use tls::{agents_tls, operators_tls};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The scheme and kind of the one name in an agent's certificate; the agent's id follows.
pub(crate) const AGENT_URI: &str = "holdfast://agent/";

/// How far certificates are valid into the past, for peers whose clock is behind; a tenth of the life if that is less.
const BACKDATE: Duration = Duration::from_secs(300);

/// When a certificate of this life that is made now begins and ends, in whole seconds since 1970.
fn validity(now: SystemTime, lifetime: Duration) -> (u64, u64) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let backdate = BACKDATE.min(lifetime / 10).as_secs();
    (now.saturating_sub(backdate), now.saturating_add(lifetime.as_secs()))
}

/// SHA-256: fingerprints, and the form in which the database knows keys and tokens.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}
