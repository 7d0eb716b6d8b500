//! Who can unlock the vault.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use comfy_table::{Table, presets};
use holdfast_vault_engine::{
    KeyFile, Keys, Passphrase, RecipientInfo, RecipientKind, Storage, Unlock, VaultError,
};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::args::{AddOptions, KeyCommand, KitOptions, Output, RemoveOptions, RotateOptions, UnlockOptions};
use crate::error::ToolError;
use crate::place::{Directions, Place};

const KIT_LABEL: &str = "recovery kit";

pub(crate) async fn key(
    storage: Storage,
    place: &Place,
    unlock: &UnlockOptions,
    command: KeyCommand,
) -> Result<(), ToolError> {
    match command {
        KeyCommand::List { output } => list(&storage, output).await,
        KeyCommand::Add(options) => add(&unlocked(storage, unlock).await?, options).await,
        KeyCommand::Remove(options) => remove(&unlocked(storage, unlock).await?, options).await,
        KeyCommand::Rotate(options) => rotate(storage, unlock, options).await,
        KeyCommand::RecoveryKit(options) => {
            recovery_kit(&unlocked(storage, unlock).await?, place, options).await
        }
    }
}

/// Unlocks a vault as the options say.
pub(crate) async fn unlocked(storage: Storage, unlock: &UnlockOptions) -> Result<Keys, ToolError> {
    if let Some(path) = &unlock.key {
        let key = KeyFile::load(path).map_err(ToolError::Open)?;
        return Keys::unlock(storage, Unlock::Key(&key)).await.map_err(ToolError::Open);
    }
    let passphrase = match &unlock.passphrase_file {
        Some(path) => Passphrase::load(path).map_err(ToolError::Open)?,
        None if unlock.passphrase => Passphrase::new(ask("Passphrase of the vault: ")?),
        None => return Err(ToolError::NoKey),
    };
    Keys::unlock(storage, Unlock::Passphrase(&passphrase)).await.map_err(ToolError::Open)
}

async fn list(storage: &Storage, output: Output) -> Result<(), ToolError> {
    let recipients = Keys::recipients(storage).await.map_err(ToolError::Keys)?;
    let entries: Vec<Entry> = recipients.iter().map(Entry::of).collect();
    let text = match output {
        Output::Json => {
            serde_json::to_string_pretty(&entries).map_err(|error| ToolError::Print(error.into()))?
        }
        Output::Table => table(&entries),
    };
    print(&text)
}

async fn add(keys: &Keys, options: AddOptions) -> Result<(), ToolError> {
    let label = &options.label;
    let added = if let Some(public) = &options.new.recipient {
        keys.add_identity(label, public).await
    } else if let Some(path) = &options.new.new_key_file {
        return print(&told_added(&add_new_key(keys, label, path).await?.1));
    } else {
        keys.add_passphrase(label, &new_passphrase(options.new.new_passphrase_file.as_deref())?).await
    };
    print(&told_added(&added.map_err(ToolError::Keys)?))
}

/// Makes a key file and lets it unlock the vault. If that fails, there is no file that opens nothing.
async fn add_new_key(keys: &Keys, label: &str, path: &Path) -> Result<(KeyFile, RecipientInfo), ToolError> {
    let key = KeyFile::generate(path).map_err(ToolError::Keys)?;
    match keys.add_identity(label, &key.public()).await {
        Ok(added) => Ok((key, added)),
        Err(error) => {
            remove_made(path);
            Err(ToolError::Keys(error))
        }
    }
}

/// Asks for it where there is no file.
fn new_passphrase(file: Option<&Path>) -> Result<Passphrase, ToolError> {
    if let Some(path) = file {
        return Passphrase::load(path).map_err(ToolError::Keys);
    }
    let first = ask("New passphrase: ")?;
    if *first != *ask("Once more: ")? {
        return Err(ToolError::PassphrasesDiffer);
    }
    Ok(Passphrase::new(first))
}

/// Removes what this program made a moment ago.
fn remove_made(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        eprintln!("warning: {} opens nothing, and cannot be removed: {error}", path.display());
    }
}

fn told_added(added: &RecipientInfo) -> String {
    format!("added {} {added}", added.id)
}

async fn remove(keys: &Keys, options: RemoveOptions) -> Result<(), ToolError> {
    if !options.yes {
        return Err(ToolError::NotConfirmed(options.id));
    }
    let removed = keys.remove(options.id).await.map_err(ToolError::Keys)?;
    print(&format!("removed {} {removed}", removed.id))
}

/// What is new is stored, and known to unlock the vault, before what is old goes: whoever is interrupted leaves both.
async fn rotate(storage: Storage, unlock: &UnlockOptions, options: RotateOptions) -> Result<(), ToolError> {
    let old = unlocked(storage.clone(), unlock).await?;
    let label = options.label.unwrap_or_else(|| match &*old.used().label {
        "" => "key file".to_owned(),
        label => label.to_owned(),
    });
    if options.new.new_key_file.is_some() == matches!(old.used().kind, RecipientKind::Passphrase) {
        return Err(ToolError::OtherKind);
    }
    let (added, new) = match &options.new.new_key_file {
        Some(path) => {
            let (key, added) = add_new_key(&old, &label, path).await?;
            (added, Keys::unlock(storage, Unlock::Key(&key)).await)
        }
        None => {
            let passphrase = new_passphrase(options.new.new_passphrase_file.as_deref())?;
            let unlock = Unlock::Passphrase(&passphrase);
            // If it were the old one, the old one would be what unlocks afterwards.
            match Keys::unlock(storage.clone(), unlock).await {
                Err(VaultError::WrongKey { .. }) => {}
                Err(error) => return Err(ToolError::Keys(error)),
                Ok(_) => return Err(ToolError::NothingNew),
            }
            let added = old.add_passphrase(&label, &passphrase).await.map_err(ToolError::Keys)?;
            (added, Keys::unlock(storage, unlock).await)
        }
    };
    let removed = new.map_err(ToolError::Keys)?.remove(old.used().id).await.map_err(ToolError::Keys)?;
    print(&format!("{}\nremoved {} {removed}", told_added(&added), removed.id))
}

async fn recovery_kit(keys: &Keys, place: &Place, options: KitOptions) -> Result<(), ToolError> {
    let key = KeyFile::new();
    // Written before the vault is told: what is left by an error opens nothing.
    // Where names are in the database no key is added without it, and none removed.
    let alone = if place.alone { " --alone" } else { "" };
    let text = kit(keys, &place.directions().map_err(ToolError::Open)?, alone, &key);
    match &options.output {
        Some(path) => {
            write_private(path, &text)?;
            add_kit(keys, &options, &key).await.inspect_err(|_| remove_made(path))?;
            print(&format!(
                "wrote {}: print it, keep it where the vault is not, and delete the file",
                path.display()
            ))
        }
        None => {
            add_kit(keys, &options, &key).await?;
            print(&text)
        }
    }
}

async fn add_kit(keys: &Keys, options: &KitOptions, key: &KeyFile) -> Result<(), ToolError> {
    let label = options.label.as_deref().unwrap_or(KIT_LABEL);
    keys.add_identity(label, &key.public()).await.map(drop).map_err(ToolError::Keys)
}

fn kit(keys: &Keys, to: &Directions, alone: &str, key: &KeyFile) -> Zeroizing<String> {
    let made = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut text = Zeroizing::new(String::new());
    let _ = write!(
        text,
        "HOLDFAST RECOVERY KIT

Whoever has this page and the vault can read every backup in it. Keep it where the vault is not.

vault       {id}
kept at     {vault}
made        {made}
points are signed by
            {public_key}
key         {public}

To restore without the controller:
 1. Install the program holdfast-vault.
 2. Write this line to a file, and run `chmod 600 FILE`:

{secret}

 3. {needed}
 4. See what is there:

    holdfast-vault {arguments} --key FILE list

 5. Restore a disk:

    holdfast-vault {arguments} --key FILE restore --point MACHINE@latest --disk NAME --to disk.raw

To run the controller again: FILE is its vault.key.
If this page is lost or seen, its key is removed by whoever has another one; the first line tells its ID:

    holdfast-vault {arguments} key list
    holdfast-vault {arguments} --key OTHER{alone} key remove ID --yes",
        vault = to.vault,
        needed = to.needed,
        arguments = to.arguments,
        id = keys.vault_id(),
        public_key = keys.public_key(),
        public = key.public(),
        secret = &*key.secret(),
    );
    text
}

fn write_private(path: &Path, text: &str) -> Result<(), ToolError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| ToolError::Write { path: path.to_owned(), source })
}

fn ask(prompt: &str) -> Result<String, ToolError> {
    rpassword::prompt_password(prompt).map_err(ToolError::Prompt)
}

fn print(text: &str) -> Result<(), ToolError> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(ToolError::Print)
}

/// A recipient in `-o json`.
#[derive(Debug, Serialize)]
struct Entry {
    id: Uuid,
    /// `first`, `identity`, `passphrase` or `damaged`.
    kind: &'static str,
    label: String,
    /// The age recipient; `null` for passphrases, and for the first key file, of which the vault does not say it.
    recipient: Option<String>,
    created_at: Option<String>,
    error: Option<String>,
}

impl Entry {
    fn of(info: &RecipientInfo) -> Self {
        let (kind, recipient, error) = match &info.kind {
            RecipientKind::First => ("first", None, None),
            RecipientKind::Identity { public } => ("identity", Some(public.clone()), None),
            RecipientKind::Passphrase => ("passphrase", None, None),
            RecipientKind::Damaged { reason } => ("damaged", None, Some(reason.clone())),
        };
        let created_at = info.created_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
        Self { id: info.id, kind, label: info.label.clone(), recipient, created_at, error }
    }
}

fn table(entries: &[Entry]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "KIND", "LABEL", "CREATED", "RECIPIENT"]);
    for entry in entries {
        let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
        table.add_row([
            entry.id.to_string(),
            entry.kind.to_owned(),
            or_dash(Some(&entry.label)),
            or_dash(entry.created_at.as_deref()),
            or_dash(entry.error.as_deref().or(entry.recipient.as_deref())),
        ]);
    }
    table.to_string()
}
