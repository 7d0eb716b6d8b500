//! Who this agent is: its key, its certificate, the CA that it trusts, and the names behind them. The four files
//! of `identity/` are replaced together, so that key and certificate always match.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::state_dir::StateDir;

/// Largest file of an identity that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// A complete identity.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) record: AgentRecord,
    /// PKCS#8, PEM.
    pub(crate) key_pem: String,
    /// Leaf first, PEM.
    pub(crate) chain_pem: String,
    /// What the controller's and gateways' certificates must chain to, PEM.
    pub(crate) ca_pem: String,
}

// The key must not get into a log.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("record", &self.record).finish_non_exhaustive()
    }
}

/// `agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentRecord {
    pub(crate) agent_id: String,
    pub(crate) machine_id: String,
    pub(crate) machine_name: String,
    /// When the certificate came, by this machine's clock: controllers date certificates back.
    pub(crate) certified_at: DateTime<Utc>,
}

/// The time within which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: DateTime<Utc>,
    pub(crate) not_after: DateTime<Utc>,
}

/// Why an identity cannot be loaded, checked or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("this machine is not enrolled ({} is missing)", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} can be read by other users (mode {mode:03o}): run `chmod 600` on it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is damaged", path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("the agent's certificate cannot be read: {reason}")]
    Certificate { reason: String },
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    #[error("the certificate does not belong to the agent's key")]
    Mismatch,
    #[error("cannot write the identity to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Identity {
    /// Loads the identity of an enrolled agent, and removes what a crash in [`Identity::store`] left.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if the agent is not enrolled, or what is wrong with the files.
    pub(crate) fn load(state: &StateDir) -> Result<Self, IdentityError> {
        let dir = state.identity();
        clear_leftovers(&dir)?;
        let path = dir.join("agent.json");
        let record = match read(&path) {
            Err(IdentityError::Read { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing { path });
            }
            other => other?,
        };
        let record =
            serde_json::from_str(&record).map_err(|source| IdentityError::Record { path, source })?;
        let identity = Self {
            record,
            key_pem: read_secret(&dir.join("key.pem"))?,
            chain_pem: read(&dir.join("cert.pem"))?,
            ca_pem: read(&dir.join("ca.pem"))?,
        };
        identity.check()?;
        Ok(identity)
    }

    /// Makes this the identity on disk: a new directory takes the place of the old one in one step, so a crash
    /// leaves the old files or the new ones.
    ///
    /// # Errors
    /// If key and certificate do not match, or of the file system; the old identity is intact then.
    pub(crate) fn store(&self, state: &StateDir) -> Result<(), IdentityError> {
        self.check()?;
        let dir = state.identity();
        clear_leftovers(&dir)?;
        self.write(&dir).map_err(|source| IdentityError::Write { path: dir.clone(), source })?;
        clear_leftovers(&dir)
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let fresh = fresh_path(dir);
        DirBuilder::new().mode(0o700).create(&fresh)?;
        let record = serde_json::to_vec_pretty(&self.record)?;
        for (name, content) in [
            ("agent.json", record.as_slice()),
            ("key.pem", self.key_pem.as_bytes()),
            ("cert.pem", self.chain_pem.as_bytes()),
            ("ca.pem", self.ca_pem.as_bytes()),
        ] {
            durable::write_synced(&fresh.join(name), content)?;
        }
        durable::sync_directory(&fresh)?;
        if dir.try_exists()? {
            renameat_with(CWD, &fresh, CWD, dir, RenameFlags::EXCHANGE)?;
        } else {
            std::fs::rename(&fresh, dir)?;
        }
        dir.parent().map_or(Ok(()), durable::sync_directory)
    }

    /// When the certificate is valid, counted from when it came.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub(crate) fn validity(&self) -> Result<Validity, IdentityError> {
        let leaf = self.leaf()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)
            .map_err(|error| IdentityError::Certificate { reason: error.to_string() })?;
        let time = |seconds| {
            DateTime::from_timestamp(seconds, 0)
                .ok_or_else(|| IdentityError::Certificate { reason: "time out of range".to_owned() })
        };
        let issued = time(parsed.validity().not_before.timestamp())?;
        let not_after = time(parsed.validity().not_after.timestamp())?;
        let came = Some(self.record.certified_at).filter(|came| *came < not_after).unwrap_or(issued);
        Ok(Validity { not_before: issued.max(came), not_after })
    }

    fn leaf(&self) -> Result<CertificateDer<'static>, IdentityError> {
        CertificateDer::from_pem_slice(self.chain_pem.as_bytes())
            .map_err(|error| IdentityError::Certificate { reason: error.to_string() })
    }

    fn check(&self) -> Result<(), IdentityError> {
        let leaf = self.leaf()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)
            .map_err(|error| IdentityError::Certificate { reason: error.to_string() })?;
        let key = rcgen::KeyPair::from_pem(&self.key_pem).map_err(|_| IdentityError::Mismatch)?;
        if parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
            Ok(())
        } else {
            Err(IdentityError::Mismatch)
        }
    }
}

/// A fresh key and the request to sign it.
pub(crate) struct KeyRequest {
    pub(crate) key_pem: String,
    pub(crate) csr_der: Vec<u8>,
}

impl KeyRequest {
    /// Makes an ECDSA P-256 key. The controller takes only the public key out of the request.
    ///
    /// # Errors
    /// Of the random number generator or the encoder.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        Self::of(&rcgen::KeyPair::generate()?)
    }

    /// With the key of an earlier enrolment whose answer was lost, or with a fresh one that is kept before anybody is asked:
    /// the controller answers the same token and key again.
    ///
    /// # Errors
    /// If the key can be neither read nor kept.
    pub(crate) fn for_enrolment(state: &StateDir) -> Result<Self, IdentityError> {
        let path = state.enrolment_key();
        match read_secret(&path) {
            // What cannot be a key any more is of no use to anybody.
            Ok(key_pem) => {
                if let Ok(key) = rcgen::KeyPair::from_pem(&key_pem) {
                    return Ok(Self::of(&key)?);
                }
            }
            Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let request = Self::generate()?;
        durable::replace(&path, request.key_pem.as_bytes())
            .map_err(|source| IdentityError::Write { path, source })?;
        Ok(request)
    }

    fn of(key: &rcgen::KeyPair) -> Result<Self, rcgen::Error> {
        let request = rcgen::CertificateParams::default().serialize_request(key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: request.der().to_vec() })
    }
}

/// Forgets the key of an enrolment that has come to its end.
pub(crate) fn forget_enrolment_key(state: &StateDir) {
    let path = state.enrolment_key();
    if let Err(error) = std::fs::remove_file(&path) {
        // It is this identity's, and no harm where that is.
        tracing::warn!(path = %path.display(), %error, "the key of the enrolment is left");
    }
}

fn fresh_path(dir: &Path) -> PathBuf {
    dir.with_extension("new")
}

fn clear_leftovers(dir: &Path) -> Result<(), IdentityError> {
    let path = fresh_path(dir);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(IdentityError::Write { path, source }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    File::open(path).and_then(read_text).map_err(failed)
}

/// Refuses a file to which others than its owner have any right.
fn read_secret(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    read_text(file).map_err(failed)
}

fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
