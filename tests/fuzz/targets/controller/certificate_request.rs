//! What anybody may send to a controller without a certificate: a request for one.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the controller's own files")]

mod pki;

/// What `pki` needs of it.
mod identity {
    pub(crate) fn sha256(_: &[u8]) -> [u8; 32] {
        [0; 32]
    }
}

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_fuzz::vault::scratch;
use holdfast_proto::ids::AgentId;
use libfuzzer_sys::fuzz_target;
use pki::{Ca, RequestedKey};
use uuid::Uuid;

static CA: LazyLock<Ca> =
    LazyLock::new(|| Ca::load_or_create(&scratch("ca").join("pki")).expect("an authority can be made").0);

fuzz_target!(|data: &[u8]| {
    let Ok(key) = RequestedKey::from_request(data) else { return };
    let signed = CA.sign_agent(&key, AgentId(Uuid::from_u128(7)), Duration::from_secs(3600));
    let certificate = signed.expect("a key that was taken is certified");
    assert_eq!(certificate.serial.len(), 32);
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.chain_pem.as_bytes()).expect("it is PEM");
    let leaf = pem.parse_x509().expect("it is a certificate");
    assert!(!leaf.is_ca() && leaf.subject_alternative_name().expect("names are read").is_some());
    let subject = leaf.subject().to_string();
    assert_eq!(
        subject,
        format!("CN=agent {}", Uuid::from_u128(7)),
        "nothing of the request's names is taken"
    );
});
