//! A vault whose keys are known, so that a target can seal what it likes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use age::x25519::Identity;
use holdfast_vault_engine::{KeyFile, Storage, Vault};
use holdfast_vault_format::container::{Keyring, Kind, seal_record};
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::record::{Point, Signer};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// Protects nothing but the vaults of these targets.
pub const KEY_FILE: &str = "AGE-SECRET-KEY-1GERYV3JXGERYV3JXGERYV3JXGERYV3JXGERYV3JXGERYV3JXGE6SK5RHG7\n";
pub const VAULT: Uuid = Uuid::from_u128(1);
pub const KEY: Uuid = Uuid::from_u128(2);
pub const MACHINE: Uuid = Uuid::from_u128(3);
/// Backups of a target have numbers below it.
pub const MAX_SEQ: u64 = 9;
const SECRET: [u8; 32] = [7; 32];
const SEED: [u8; 32] = [9; 32];

pub type Objects = Vec<(String, Vec<u8>)>;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime starts")
});

/// The directory that the vault believes to be in: its directories are synced there.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = scratch("vault");
    for seq in 0..=MAX_SEQ {
        fs::create_dir_all(root.join(format!("seg/{MACHINE}/{seq:020}"))).expect("a directory can be made");
    }
    for parent in ["open", "points"] {
        fs::create_dir_all(root.join(format!("{parent}/{MACHINE}"))).expect("a directory can be made");
    }
    fs::create_dir_all(root.join("keys")).expect("a directory can be made");
    root
});

static EMPTY: LazyLock<InMemory> = LazyLock::new(|| {
    let store = InMemory::new();
    put(&store, vec![("vault.json".to_owned(), header()), (format!("keys/{KEY}"), wrapped_keys())]);
    store
});

/// A directory for files, if possible in memory. `run` says where, and removes it.
#[must_use]
pub fn scratch(name: &str) -> PathBuf {
    let parent = std::env::var_os("HOLDFAST_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = parent.join(format!("fuzz-{}", std::process::id())).join(name);
    fs::create_dir_all(&path).expect("a directory can be made");
    path
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

#[must_use]
pub fn ring() -> Keyring {
    Keyring { vault: VAULT, key: DataKey::new(KEY, SECRET) }
}

#[must_use]
pub fn signer() -> Signer {
    Signer::from_seed(&SEED).expect("any seed makes a key")
}

/// A `vault.json` as the engine writes it.
#[must_use]
pub fn header() -> Vec<u8> {
    let public_key: String = signer().public_key().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{\n  \"format\": 1,\n  \"vault_id\": \"{VAULT}\",\n  \"key_id\": \"{KEY}\",\n  \"block_bytes\": 4096,\n  \
         \"max_cell_bytes\": 131072,\n  \"cipher_suite\": \"aes-256-gcm+blake3+ed25519\",\n  \"public_key\": \
         \"{public_key}\"\n}}"
    )
    .into_bytes()
}

/// What the wrapped keys hold.
#[must_use]
pub fn plain_keys() -> Vec<u8> {
    [&SECRET[..], &SEED, VAULT.as_bytes()].concat()
}

#[must_use]
pub fn wrapped_keys() -> Vec<u8> {
    encrypt(&plain_keys())
}

/// What `keys/<key id>` would be with this content.
#[must_use]
pub fn encrypt(plain: &[u8]) -> Vec<u8> {
    age::encrypt(&identity().to_public(), plain).expect("anything can be encrypted")
}

#[must_use]
pub fn decrypt(sealed: &[u8]) -> Option<Vec<u8>> {
    age::decrypt(&identity(), sealed).ok()
}

fn identity() -> Identity {
    KEY_FILE.trim().parse().expect("an identity")
}

/// Writes a file that only its owner may read: another one is no key file.
pub fn write_secret(path: &std::path::Path, content: &[u8]) {
    fs::write(path, content).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is our own");
}

#[must_use]
pub fn key_file() -> KeyFile {
    let path = scratch("key").join("vault.key");
    write_secret(&path, KEY_FILE.as_bytes());
    KeyFile::load(&path).expect("the key file is one")
}

/// Where objects are kept while `store` stands for the directory.
#[must_use]
pub fn storage(store: Arc<InMemory>) -> Storage {
    let store: Arc<dyn ObjectStore> = store;
    Storage::directory(&ROOT).expect("the directory is there").through(|_| store)
}

/// A fresh vault with these objects.
#[must_use]
pub fn open(objects: Objects) -> (Arc<InMemory>, Vault) {
    static KEY: LazyLock<KeyFile> = LazyLock::new(key_file);
    let store = Arc::new(EMPTY.fork());
    put(&store, objects);
    let vault = block_on(Vault::open(storage(Arc::clone(&store)), &KEY)).expect("its own key opens it");
    (store, vault)
}

pub fn put(store: &InMemory, objects: Objects) {
    for (name, bytes) in objects {
        block_on(store.put(&Path::from(name), bytes.into())).expect("memory takes everything");
    }
}

/// Every object of a store but the two that are not sealed.
#[must_use]
pub fn sealed_objects(store: &InMemory) -> Objects {
    use futures::TryStreamExt as _;
    let names: Vec<Path> =
        block_on(store.list(None).map_ok(|meta| meta.location).try_collect()).expect("a list");
    let mut objects: Objects = names
        .into_iter()
        .filter(|name| name.as_ref() != "vault.json" && !name.as_ref().starts_with("keys/"))
        .map(|name| {
            let bytes = block_on(async { store.get(&name).await?.bytes().await }).expect("it is listed");
            (name.to_string(), bytes.to_vec())
        })
        .collect();
    objects.sort();
    objects
}

#[must_use]
pub fn open_name(seq: u64) -> String {
    format!("open/{MACHINE}/{seq:020}")
}

#[must_use]
pub fn point_name(seq: u64) -> String {
    format!("points/{MACHINE}/{seq:020}")
}

#[must_use]
pub fn segment_name(seq: u64, number: u32) -> String {
    format!("seg/{MACHINE}/{seq:020}/{number:08}.0")
}

#[must_use]
pub fn removal_name(number: u32) -> String {
    format!("keys/{KEY}.{number:08}")
}

/// Seals a body as the vault would.
#[must_use]
pub fn seal(kind: Kind, name: &str, body: &[u8]) -> Vec<u8> {
    seal_record(&ring(), kind, name, [5; 32], body).expect("a body can be sealed")
}

/// A point's object.
#[must_use]
pub fn seal_point(point: &Point) -> (String, Vec<u8>) {
    let name = point_name(point.seq);
    let sealed = seal(Kind::Point, &name, &signer().sign(point));
    (name, sealed)
}
