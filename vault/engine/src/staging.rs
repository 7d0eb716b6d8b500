//! What a writer that was killed leaves in a vault's directory. A file is written under a staging name, `NAME#N`, and linked to
//! its own when it is durable; a listing does not show it, and nothing ever reads it. And the folders of backups of which nothing is
//! left: every begin looks into them.

use std::collections::{BTreeSet, HashSet};
use std::fs::{DirEntry, FileType};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::store::on_disk;
use crate::{Vault, VaultError, name};

impl Vault {
    /// Removes staging files of segments that have not been written to for longer than `untouched_for`, except those of
    /// backups that are not decided: their writers may be alive. So do the folders of backups that were decided before the newest, if they
    /// are empty and have been for so long. Nothing else is ever removed. Answers how many files went.
    ///
    /// A clock that is wrong costs a living writer its segment, which is then sent again; it never costs data. A late gateway of a backup
    /// that is decided, or a collection that writes a segment anew, makes a folder again that it misses, or fails and is done again.
    ///
    /// # Errors
    /// If the directory or the vault cannot be read.
    pub async fn sweep_staging(&self, untouched_for: Duration) -> Result<usize, VaultError> {
        let Some(root) = self.storage().root() else { return Ok(0) };
        self.check_present().await?;
        let segments = root.join("seg");
        let mut swept = 0;
        let folder = segments.clone();
        for machine in blocking(move || machines(&folder)).await? {
            // A backup that begins after this is not among them.
            let mut decided: BTreeSet<u64> = self.point_seqs(machine).await?.into_iter().collect();
            decided.pop_last();
            let undecided: HashSet<u64> =
                self.unconcluded(machine).await?.iter().map(|open| open.seq).collect();
            let folder = segments.join(machine.to_string());
            swept += blocking(move || {
                let swept = sweep_machine(&folder, &undecided, untouched_for)?;
                remove_empty(&folder, &decided, untouched_for)?;
                Ok(swept)
            })
            .await?;
        }
        Ok(swept)
    }
}

fn machines(segments: &Path) -> io::Result<Vec<Uuid>> {
    let exact = |text: &str| Uuid::parse_str(text).ok().filter(|id| id.to_string() == text);
    Ok(entries(segments, FileType::is_dir)?
        .iter()
        .filter_map(|entry| exact(entry.file_name().to_str()?))
        .collect())
}

fn sweep_machine(folder: &Path, undecided: &HashSet<u64>, untouched_for: Duration) -> io::Result<usize> {
    let mut swept = 0;
    for backup in entries(folder, FileType::is_dir)? {
        let seq = backup.file_name().to_str().and_then(name::parse_seq);
        if seq.is_none_or(|seq| undecided.contains(&seq)) {
            continue;
        }
        for file in entries(&backup.path(), FileType::is_file)? {
            if !file.file_name().to_str().is_some_and(name::is_staged_segment) {
                continue;
            }
            if is_old(&file, untouched_for)? {
                swept += usize::from(remove(&file.path()));
            }
        }
    }
    Ok(swept)
}

/// Removes the folders of these backups that are empty.
fn remove_empty(folder: &Path, decided: &BTreeSet<u64>, untouched_for: Duration) -> io::Result<()> {
    for backup in entries(folder, FileType::is_dir)? {
        let seq = backup.file_name().to_str().and_then(name::parse_seq);
        if seq.is_none_or(|seq| !decided.contains(&seq)) || !is_old(&backup, untouched_for)? {
            continue;
        }
        match std::fs::remove_dir(backup.path()) {
            Ok(()) => debug!(path = %backup.path().display(), "an empty folder is removed"),
            Err(error) if is_in_use(&error) => {}
            Err(error) => {
                warn!(path = %backup.path().display(), %error, "an empty folder cannot be removed");
            }
        }
    }
    Ok(())
}

/// Something is in it, or it is gone.
fn is_in_use(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
    )
}

/// Whether it was not changed for longer than that. One from the future is left alone, too, and one that is gone.
fn is_old(entry: &DirEntry, untouched_for: Duration) -> io::Result<bool> {
    let modified = match entry.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata?.modified()?,
    };
    Ok(SystemTime::now().duration_since(modified).unwrap_or_default() > untouched_for)
}

/// What a directory holds of one type; links are not followed. Empty if it is not there (any more).
fn entries(dir: &Path, wanted: fn(&FileType) -> bool) -> io::Result<Vec<DirEntry>> {
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        if wanted(&entry.file_type()?) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Another gateway may have been faster.
fn remove(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => info!(path = %path.display(), "what a killed writer left is removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => {
            warn!(path = %path.display(), %error, "what a killed writer left cannot be removed");
            return false;
        }
    }
    true
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, VaultError> {
    on_disk(work).await.map_err(|source| VaultError::storage("look for staging files in", "seg", source))
}
