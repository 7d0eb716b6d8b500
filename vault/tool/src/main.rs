//! `holdfast-vault`: reads a vault with nothing but its place and its key.

mod args;
mod check;
mod error;
mod find;
mod list;
mod output;
mod place;
mod restore;

use std::process::ExitCode;

use clap::Parser as _;
use holdfast_vault_engine::{KeyFile, Vault};

use crate::args::{Args, Command};
use crate::error::ToolError;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ToolError::Runtime)
        .and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), ToolError> {
    let key = KeyFile::load(&args.key).map_err(ToolError::Open)?;
    let store = place::storage(&args.vault, args.s3).map_err(ToolError::Open)?;
    let vault = Vault::open(store, &key).await.map_err(ToolError::Open)?;
    match args.command {
        Command::List { output } => list::list(&vault, output).await,
        Command::Check(options) => check::check(&vault, options).await,
        Command::Restore(options) => restore::restore(&vault, options).await,
    }
}
