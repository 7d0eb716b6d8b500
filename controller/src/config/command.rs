use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::VaultPlace;

/// The controller of Holdfast: keeps policies and jobs in Postgres, dispatches work to agents, and stores their data.
#[derive(Debug, Parser)]
#[command(name = "holdfast-controller", version)]
pub(crate) struct Cli {
    /// TOML file with the same names as the flags (data_dir for --data-dir), and tables [timing], [limits], [retention] and,
    /// for S3, [vault]. Default: controller.toml in the data directory,
    /// if there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How logs are written to stderr; HOLDFAST_LOG says which
    #[arg(long, global = true, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes what a controller needs: certificate authority, vault and vault key. What is there stays
    Init(InitCommand),
    /// Runs the controller until SIGTERM
    Serve(ServeCommand),
    /// Manages operators' credentials, straight in the database
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
}

#[derive(Args, Debug)]
pub(crate) struct InitCommand {
    /// Folder for the controller's own files
    #[arg(long, value_name = "DIR", env = "HOLDFAST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Name or address by which agents and operators reach this controller; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Folder of the vault, or s3://BUCKET/PREFIX [default: vault in the data directory]
    #[arg(long, value_name = "PLACE", value_parser = VaultPlace::parse)]
    pub(crate) vault: Option<VaultPlace>,
    /// Makes a new vault although there is a key, so that there was one before. What was backed up to that is not in the new one
    #[arg(long)]
    pub(crate) new_vault: bool,
    /// For a storage that lets a name be taken twice: the controllers' database says who takes it. Of a new vault, and for good
    #[arg(long)]
    pub(crate) names_in_database: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ServeCommand {
    /// Folder for the controller's own files
    #[arg(long, value_name = "DIR", env = "HOLDFAST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Database, such as postgres://user@host/holdfast
    #[arg(long, value_name = "URL", env = "HOLDFAST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Where operators are served; port 0 takes a free one [default: 127.0.0.1:7444]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) operators: Option<SocketAddr>,
    /// Where agents are served [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) agents: Option<SocketAddr>,
    /// Where Prometheus finds /metrics, over plain HTTP [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Name or address by which agents and operators reach this controller; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Folder of the vault, or s3://BUCKET/PREFIX [default: vault in the data directory]
    #[arg(long, value_name = "PLACE", value_parser = VaultPlace::parse)]
    pub(crate) vault: Option<VaultPlace>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Makes a key and prints it; it cannot be shown again
    Create(CreateApiKey),
    /// Lists names, roles and ages of the keys that work
    List(DatabaseArgs),
    /// Ends a key: after five seconds no controller takes it any more
    Revoke(RevokeApiKey),
}

#[derive(Args, Debug)]
pub(crate) struct DatabaseArgs {
    /// Folder for the controller's own files, where its configuration may be
    #[arg(long, value_name = "DIR", env = "HOLDFAST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Database, such as postgres://user@host/holdfast
    #[arg(long, value_name = "URL", env = "HOLDFAST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeApiKey {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Whose key it is, as `list` says it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct CreateApiKey {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Whose key it is; appears in the audit trail
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// What the key allows
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Everything
    Admin,
    /// Reading, but no restore
    Viewer,
}
