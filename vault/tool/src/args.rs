use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use holdfast_restore::{Existing, parse_percentage};
use uuid::Uuid;

/// Reads a Holdfast vault, and says who can unlock it, with nothing but its place and its key: no controller, no database.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub(crate) struct Args {
    /// Directory of the vault, or s3://BUCKET/PREFIX. For S3, Amazon's environment variables count, such as
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL.
    #[arg(long, value_name = "PLACE")]
    pub(crate) vault: String,
    #[command(flatten)]
    pub(crate) s3: S3Options,
    #[command(flatten)]
    pub(crate) unlock: UnlockOptions,
    /// Nothing else changes the vault's keys at this time. Needed to change them where the controllers' database gives names out,
    /// which this program does not ask.
    #[arg(long)]
    pub(crate) alone: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// By what the vault is unlocked.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct UnlockOptions {
    /// Key file of the vault.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// File with a passphrase of the vault in its first line; nobody else may read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Asks for a passphrase of the vault.
    #[arg(long)]
    pub(crate) passphrase: bool,
}

/// How a vault in S3 is reached.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "S3")]
pub(crate) struct S3Options {
    /// URL of the server [default: Amazon's for the region].
    #[arg(long, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// Region of the bucket [default: us-east-1].
    #[arg(long, value_name = "NAME")]
    pub(crate) s3_region: Option<String>,
    /// Name the bucket in the host's name, not in the path.
    #[arg(long)]
    pub(crate) s3_virtual_host: bool,
    /// Allow an endpoint without TLS.
    #[arg(long)]
    pub(crate) s3_allow_http: bool,
    /// PEM file with the endpoint's authority, instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) s3_ca_file: Option<PathBuf>,
    /// File with the access key; nobody else may read it.
    #[arg(long, value_name = "FILE", requires = "s3_secret_access_key_file")]
    pub(crate) s3_access_key_id_file: Option<PathBuf>,
    /// File with the secret access key; nobody else may read it.
    #[arg(long, value_name = "FILE", requires = "s3_access_key_id_file")]
    pub(crate) s3_secret_access_key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists machines and their points.
    List {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Verifies what is stored; fails if something is damaged.
    Check(CheckOptions),
    /// Writes one disk of a point to a file.
    Restore(RestoreOptions),
    /// Shows and changes who can unlock the vault.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Lists who can unlock the vault; needs no key.
    List {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Lets one more key file or passphrase unlock the vault.
    Add(AddOptions),
    /// Takes that from one, but never from the one that is used for it.
    Remove(RemoveOptions),
    /// Replaces the key file or passphrase that is used by a new one.
    Rotate(RotateOptions),
    /// Makes a key on a page to be printed, with what to do in an emergency.
    RecoveryKit(KitOptions),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddOptions {
    /// What people call it.
    #[arg(long)]
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) new: NewRecipient,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NewRecipient {
    /// Somebody else's age recipient, as `age-keygen` prints it.
    #[arg(long, value_name = "age1...")]
    pub(crate) recipient: Option<String>,
    /// Makes a new key file.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// File with the new passphrase in its first line, at least 12 characters; nobody else may read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Asks for the new passphrase.
    #[arg(long)]
    pub(crate) new_passphrase: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveOptions {
    /// As `key list` tells it.
    pub(crate) id: Uuid,
    /// Really.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RotateOptions {
    #[command(flatten)]
    pub(crate) new: Replacement,
    /// What people call it [default: as the old one].
    #[arg(long)]
    pub(crate) label: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Replacement {
    /// Makes a new key file, in the place of a key file.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// File with the new passphrase in its first line, at least 12 characters, in the place of a passphrase; nobody else may read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Asks for the new passphrase.
    #[arg(long)]
    pub(crate) new_passphrase: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KitOptions {
    /// What people call it [default: recovery kit].
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// File to make, which nobody else can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckOptions {
    /// Reads every byte that the points need, once; otherwise only how they hang together is looked at.
    #[arg(long, conflicts_with = "sample")]
    pub(crate) read_data: bool,
    /// Reads so many of the segments, chosen at random: 5, 0.5%.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percentage)]
    pub(crate) sample: Option<u32>,
    /// Only this machine: name or id.
    #[arg(long)]
    pub(crate) machine: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreOptions {
    /// Id of a point, or MACHINE@latest, where MACHINE is a name or an id.
    #[arg(long, value_name = "POINT")]
    pub(crate) point: String,
    /// Needed if the point has several disks.
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Option<String>,
    /// File to write; it appears under this name when it is complete and verified.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    overwrite: bool,
}

impl RestoreOptions {
    pub(crate) fn existing(&self) -> Existing {
        if self.overwrite { Existing::Replace } else { Existing::Keep }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[cfg(test)]
#[path = "../../../tests/documented.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_calls_is_there() {
        documented::assert_calls_parse("holdfast-vault", 9, Args::try_parse_from);
    }
}
