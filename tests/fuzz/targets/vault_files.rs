//! What is not sealed: `vault.json`, the wrapped keys, the key file, names of files in the vault's directories.
#![no_main]

use std::sync::{Arc, LazyLock};

use holdfast_fuzz::vault::{
    KEY, MACHINE, block_on, decrypt, encrypt, header, key_file, plain_keys, put, scratch, seal, storage,
    wrapped_keys, write_secret,
};
use holdfast_vault_engine::{KeyFile, Keys, Vault};
use holdfast_vault_format::container::Kind;
use holdfast_vault_format::recipient::SealedRecipient;
use libfuzzer_sys::fuzz_target;
use object_store::memory::InMemory;

static KEY_FILE: LazyLock<KeyFile> = LazyLock::new(key_file);
static KEYS: LazyLock<Vec<u8>> = LazyLock::new(wrapped_keys);

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    match mode {
        // `vault.json`: nothing but the vault's own opens.
        0 => {
            let opened = open(data.to_vec(), KEYS.clone());
            assert!(!opened || is_header(data), "a foreign vault.json opens");
        }
        // The wrapped keys as somebody without them writes them: all know whom they are encrypted to.
        1 => {
            let opened = open(header(), data.to_vec());
            let own = || decrypt(data).is_some_and(|plain| plain[32..] == plain_keys()[32..]);
            assert!(!opened || own(), "keys without the seed open");
        }
        // As somebody with the key does.
        2 => {
            let opened = open(header(), encrypt(data));
            assert!(!opened || data.len() == 80, "keys of a wrong length open");
        }
        3 => {
            let path = scratch("key_file").join("key");
            write_secret(&path, data);
            let _ = KeyFile::load(&path);
        }
        4 => names(data),
        // One more recipient, written by somebody who knows its identity and not the vault's keys.
        5 => {
            let store = Arc::new(InMemory::new());
            let recipient = format!("keys/{KEY}.{MACHINE}");
            put(&store, vec![("vault.json".to_owned(), header()), (recipient, data.to_vec())]);
            let known = block_on(Keys::recipients(&storage(Arc::clone(&store)))).expect("it is a vault");
            assert_eq!(known.len(), 1);
            assert!(
                block_on(Vault::open(storage(store), &KEY_FILE)).is_err(),
                "a recipient without the keys opens"
            );
            let decoded = SealedRecipient::decode(data);
            if let Ok(sealed) = &decoded {
                assert!(sealed.open(&[0; 32]).is_err(), "a wrapping key that nobody has opens");
            }
        }
        _ => {}
    }
});

fn open(header: Vec<u8>, keys: Vec<u8>) -> bool {
    let store = Arc::new(InMemory::new());
    put(&store, vec![("vault.json".to_owned(), header), (format!("keys/{KEY}"), keys)]);
    block_on(Vault::open(storage(store), &KEY_FILE)).is_ok()
}

/// JSON may be written in many ways; what it says may not differ.
fn is_header(data: &[u8]) -> bool {
    let says = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).ok();
    says(data).is_some_and(|said| {
        let text =
            said.to_string().to_ascii_lowercase().replace(['-', '{', '}'], "").replace("urn:uuid:", "");
        let wanted = says(&header()).expect("it is JSON").to_string().replace(['-', '{', '}'], "");
        text == wanted
    })
}

/// Files with any names, one per line, beside the objects of a machine.
fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let store = Arc::new(InMemory::new());
    put(&store, vec![("vault.json".to_owned(), header()), (format!("keys/{KEY}"), KEYS.clone())]);
    for line in text.lines().take(16) {
        for parent in ["open", "points", "seg"] {
            let name = format!("{parent}/{MACHINE}/{line}");
            let Ok(path) = object_store::path::Path::parse(&name) else { continue };
            let kind = if parent == "open" { Kind::Open } else { Kind::Point };
            put(&store, vec![(path.to_string(), seal(kind, path.as_ref(), b"nothing"))]);
        }
    }
    block_on(async {
        let vault = Vault::open(storage(store), &KEY_FILE).await.expect("it is a vault");
        let seqs = vault.point_seqs(MACHINE).await.expect("names are no reason to fail");
        assert!(seqs.is_sorted(), "listed in order");
        vault.machines().await.expect("names are no reason to fail");
        vault.points(MACHINE).await.expect("damage is told point by point");
        vault.unconcluded(MACHINE).await.expect("damage is told by nil ids");
    });
}
