//! `holdfast-vault`: reads a vault with nothing but its place and its key.

mod args;
mod check;
mod error;
mod find;
mod key;
mod list;
mod output;
mod place;
mod restore;

use std::process::ExitCode;

use clap::Parser as _;
use holdfast_vault_engine::{Storage, Vault};

use crate::args::{Args, Command, UnlockOptions};
use crate::error::ToolError;
use crate::place::Place;

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
    let place = Place { vault: args.vault, s3: args.s3, alone: args.alone };
    let storage = place.storage().map_err(ToolError::Open)?;
    let storage = if args.alone { storage.alone() } else { storage };
    let unlock = &args.unlock;
    match args.command {
        Command::List { output } => list::list(&open(storage, unlock).await?, output).await,
        Command::Check(options) => check::check(&open(storage, unlock).await?, options).await,
        Command::Restore(options) => restore::restore(&open(storage, unlock).await?, options).await,
        Command::Key(command) => key::key(storage, &place, unlock, command).await,
    }
}

async fn open(storage: Storage, unlock: &UnlockOptions) -> Result<Vault, ToolError> {
    Vault::open_with(key::unlocked(storage, unlock).await?).map_err(ToolError::Open)
}
