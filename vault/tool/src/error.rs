use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use holdfast_restore::RestoreError;
use holdfast_vault_engine::{VaultError, chain};

/// Why a command failed. `Display` is what happened, [`ToolError::next_step`] what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("the vault cannot be opened")]
    Open(#[source] VaultError),
    #[error("the vault cannot be listed")]
    List(#[source] VaultError),
    #[error("the vault cannot be checked")]
    Check(#[source] VaultError),
    #[error("the vault's keys cannot be changed or listed")]
    Keys(#[source] VaultError),
    #[error("nothing is given to unlock the vault")]
    NoKey,
    #[error("no passphrase can be asked for")]
    Prompt(#[source] io::Error),
    #[error("the two passphrases are not the same")]
    PassphrasesDiffer,
    #[error("a key file is replaced by a key file, and a passphrase by a passphrase")]
    OtherKind,
    #[error("the new passphrase opens the vault already")]
    NothingNew,
    #[error("recipient {0} was not removed")]
    NotConfirmed(uuid::Uuid),
    #[error("no point {0} in this vault")]
    NoPoint(String),
    #[error("no machine {0} in this vault")]
    NoMachine(String),
    #[error("{count} machines are called {name:?}")]
    ManyMachines { name: String, count: usize },
    #[error("machine {0} has no readable point")]
    NoPoints(String),
    #[error("the newest point of machine {machine}, number {seq}, is damaged")]
    LatestDamaged { machine: String, seq: u64, source: VaultError },
    #[error("{0:?} is neither a point's id nor MACHINE@latest")]
    PointSyntax(String),
    #[error("the point has no disk {wanted:?}; it has: {known}")]
    NoDisk { wanted: String, known: String },
    #[error("the point has several disks: {known}")]
    WhichDisk { known: String },
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the disk cannot be restored")]
    Read(#[source] VaultError),
    #[error("something is damaged: {findings} findings")]
    Damage { findings: u64 },
    #[error("the output cannot be printed")]
    Print(#[source] io::Error),
    #[error("the program cannot start")]
    Runtime(#[source] io::Error),
    #[error("a worker did not finish")]
    Worker(#[source] tokio::task::JoinError),
}

impl ToolError {
    /// Prints one line with all causes and one with the next step to stderr.
    pub(crate) fn print(&self) {
        eprintln!("error: {}", chain(self));
        eprintln!("  next: {}", self.next_step());
    }

    fn next_step(&self) -> Cow<'static, str> {
        if let Self::Open(VaultError::ExposedKeyFile { path, .. }) = self {
            return format!("run `chmod 600 {path}`").into();
        }
        if let Some(step) = self.vault_error().and_then(VaultError::next_step) {
            return step.into();
        }
        Cow::Borrowed(self.usual_step())
    }

    fn vault_error(&self) -> Option<&VaultError> {
        match self {
            Self::Open(source)
            | Self::List(source)
            | Self::Check(source)
            | Self::Read(source)
            | Self::Keys(source) => Some(source),
            _ => None,
        }
    }

    fn usual_step(&self) -> &'static str {
        match self {
            Self::Open(VaultError::WrongKey { .. }) => {
                "give one of those with --key, --passphrase or --passphrase-file"
            }
            Self::NoKey => "give --key FILE, --passphrase, or --passphrase-file FILE",
            Self::Prompt(_) => "run it on a terminal, or give the passphrase in a file",
            Self::PassphrasesDiffer => "try again",
            Self::OtherKind => {
                "give --new-key-file with --key, and --new-passphrase or --new-passphrase-file with a passphrase; from one to the other it takes `key add` and `key remove`"
            }
            Self::NothingNew => {
                "choose another one; if a rotation was interrupted, remove the old one with `key remove`"
            }
            Self::NotConfirmed(_) => {
                "see with `key list` what it is; with --yes its owner cannot unlock the vault any more, unless a copy of it was kept"
            }
            Self::Keys(VaultError::BadInput { .. }) => "correct that; nothing was changed",
            Self::Keys(_) => "check --vault, and that this user may write to it",
            Self::Open(VaultError::NotAVault) => {
                "give the directory or the bucket and prefix that hold vault.json with --vault"
            }
            Self::Open(_) => {
                "check --vault and --key, that the vault's file system is mounted, and that this user may read both"
            }
            Self::List(_) | Self::Check(_) | Self::Runtime(_) | Self::Worker(_) => {
                "check the vault's directory and try again"
            }
            Self::NoPoint(_) | Self::PointSyntax(_) => "see the ids with `holdfast-vault ... list`",
            Self::NoMachine(_) | Self::NoPoints(_) => "see the machines with `holdfast-vault ... list`",
            Self::ManyMachines { .. } => "use the machine's id instead of its name",
            Self::LatestDamaged { .. } => "restore an older point by its id: see `holdfast-vault ... list`",
            Self::NoDisk { .. } | Self::WhichDisk { .. } => "name one of them with --disk",
            Self::Restore(RestoreError::Exists { .. }) => {
                "choose another file, or replace it with --overwrite"
            }
            Self::Restore(RestoreError::NotAFile { .. }) => "choose a file that does not exist yet",
            Self::Restore(RestoreError::Busy { .. }) => "wait for it, or choose another file",
            Self::Restore(RestoreError::File { .. }) | Self::Write { .. } => {
                "make room or choose another place, then try again"
            }
            Self::Read(error) if error.is_damage() => {
                "restore another point, or bring the object back from a copy"
            }
            Self::Read(_) => "check the vault's storage and try again",
            Self::Restore(RestoreError::Content(_)) => {
                "restore another point, or bring the vault back from a copy"
            }
            Self::Damage { .. } => {
                "restore points that are not damaged, or bring the objects back from a copy"
            }
            Self::Print(_) => "check where the output goes",
        }
    }
}
