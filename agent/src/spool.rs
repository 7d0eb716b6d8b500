//! Terminal reports, on disk until the controller acknowledged them: what an agent has done is not forgotten in a
//! crash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_proto::v1::StepReport;
use prost::Message as _;

use crate::attempt::Attempt;
use crate::durable;

/// Suffix of a whole report.
const SUFFIX: &str = "report";
/// Length of the checksum in front of the encoded report, in bytes.
const CHECKSUM_BYTES: usize = 32;

/// The reports that nobody acknowledged, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    reports: Mutex<BTreeMap<Attempt, StepReport>>,
}

/// The spool's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("cannot list the spool {}", dir.display())]
    List { dir: PathBuf, source: io::Error },
    #[error("cannot keep the report in {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove the acknowledged report {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

impl Spool {
    /// Loads what earlier processes left. Damaged files are set aside with a warning.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(crate) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let list = |source| SpoolError::List { dir: dir.to_owned(), source };
        let mut reports = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            match std::fs::read(&path).map_err(list).map(|content| decode(&content))? {
                Some((attempt, report)) => {
                    reports.insert(attempt, report);
                }
                None => {
                    tracing::error!(path = %path.display(), "a spooled report is damaged and was set aside");
                    std::fs::rename(&path, path.with_extension("damaged")).map_err(list)?;
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), reports: Mutex::new(reports) })
    }

    /// Keeps a terminal report. It is sent even if the disk refuses it: it only does not survive the process then.
    ///
    /// # Errors
    /// If it could not be made durable.
    pub(crate) fn put(&self, attempt: Attempt, report: StepReport) -> Result<(), SpoolError> {
        let path = self.path(attempt);
        // On disk first: once it is in memory it is sent, and its acknowledgement removes the file.
        let written = durable::replace(&path, &encode(&report));
        self.lock().insert(attempt, report);
        written.map_err(|source| SpoolError::Write { path, source })
    }

    /// Forgets a report that was acknowledged, unless a later one of the same attempt is there.
    ///
    /// # Errors
    /// If the file cannot be removed; it is then sent again after the next start.
    pub(crate) fn acknowledge(&self, attempt: Attempt, sequence: i64) -> Result<(), SpoolError> {
        let mut reports = self.lock();
        if reports.get(&attempt).is_none_or(|report| report.sequence > sequence) {
            return Ok(());
        }
        reports.remove(&attempt);
        let path = self.path(attempt);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| durable::sync_directory(&self.dir)),
        };
        removed.map_err(|source| SpoolError::Remove { path, source })
    }

    /// All reports without acknowledgement.
    pub(crate) fn pending(&self) -> Vec<(Attempt, StepReport)> {
        self.lock().iter().map(|(attempt, report)| (*attempt, report.clone())).collect()
    }

    /// Whether this attempt has ended.
    pub(crate) fn holds(&self, attempt: Attempt) -> bool {
        self.lock().contains_key(&attempt)
    }

    /// The report of this attempt.
    pub(crate) fn find(&self, attempt: Attempt) -> Option<StepReport> {
        self.lock().get(&attempt).cloned()
    }

    fn path(&self, attempt: Attempt) -> PathBuf {
        self.dir.join(format!("{}-{}.{SUFFIX}", attempt.step, attempt.number))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Attempt, StepReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(report: &StepReport) -> Vec<u8> {
    let body = report.encode_to_vec();
    let mut content = blake3::hash(&body).as_bytes().to_vec();
    content.extend_from_slice(&body);
    content
}

fn decode(content: &[u8]) -> Option<(Attempt, StepReport)> {
    let (checksum, body) = content.split_at_checked(CHECKSUM_BYTES)?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let report = StepReport::decode(body).ok()?;
    let attempt = Attempt::from_wire(report.attempt.as_ref())?;
    Some((attempt, report))
}

#[cfg(test)]
mod tests;
