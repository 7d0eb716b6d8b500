//! Points, opens, aborts, events and collections, opened; points and events as they are signed; removals of keys, carried out.
#![no_main]

use std::sync::{Arc, LazyLock};

use holdfast_fuzz::vault::{block_on, key_file, open, put, removal_name, seal, signer, storage};
use holdfast_vault_engine::{KeyFile, Keys, Unlock};
use holdfast_vault_format::DecodeError;
use holdfast_vault_format::collection::{Collection, Condemned};
use holdfast_vault_format::container::Kind;
use holdfast_vault_format::event::Event;
use holdfast_vault_format::record::{Abort, Open, Point, verify};
use libfuzzer_sys::fuzz_target;
use object_store::memory::InMemory;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    match mode {
        0 => {
            let Ok(point) = Point::decode(data) else { return };
            assert_eq!(point.encode(), data, "a point has one encoding: its hash depends on it");
            let signer = signer();
            let mut body = signer.sign(&point);
            assert_eq!(verify(&body, &signer.public_key()), Ok(point));
            body[0] ^= 1;
            assert_eq!(verify(&body, &signer.public_key()), Err(DecodeError::Signature));
        }
        1 => {
            let Ok(open) = Open::decode(data) else { return };
            assert_eq!(open.encode(), data, "an open has one encoding");
        }
        2 => {
            let Ok(abort) = Abort::decode(data) else { return };
            assert_eq!(abort.encode(), data, "an abort has one encoding");
        }
        3 => {
            let Ok(point) = verify(data, &signer().public_key()) else { return };
            assert_eq!(signer().sign(&point), data, "nobody else signs");
        }
        4 => {
            let Ok(event) = Event::decode(data) else { return };
            assert_eq!(event.encode(), data, "an event has one encoding");
        }
        5 => {
            let Ok(event) = Event::verify(data, &signer().public_key()) else { return };
            assert_eq!(event.sign(&signer()), data, "nobody else signs");
        }
        6 => {
            let Ok(collection) = Collection::decode(data) else { return };
            assert_eq!(collection.encode(), data, "a collection has one encoding");
        }
        7 => {
            let Ok(condemned) = Condemned::decode(data) else { return };
            assert_eq!(condemned.encode(), data, "what is condemned has one encoding");
            assert!(condemned.segments.is_sorted(), "in ascending order");
        }
        8 => carry_out(data),
        _ => {}
    }
});

/// A vault that opens for two, and the second one.
static TWO: LazyLock<(Arc<InMemory>, Uuid)> = LazyLock::new(|| {
    let (store, _) = open(Vec::new());
    let keys = unlock(&store).expect("its own key opens it");
    let added = block_on(keys.add_identity("second", &KeyFile::new().public())).expect("one more is taken");
    (store, added.id)
});

fn unlock(store: &Arc<InMemory>) -> Option<Keys> {
    static OWN: LazyLock<KeyFile> = LazyLock::new(key_file);
    block_on(Keys::unlock(storage(Arc::clone(store)), Unlock::Key(&OWN))).ok()
}

/// Somebody began to remove whom the fuzzer likes; then the second is removed.
fn carry_out(body: &[u8]) {
    let (two, second) = &*TWO;
    let store = Arc::new(two.fork());
    let name = removal_name(1);
    put(&store, vec![(name.clone(), seal(Kind::Removal, &name, body))]);
    let keys = unlock(&store).expect("its own key opens it");
    let removed = block_on(keys.remove(*second));
    let is_own = body == keys.used().id.as_bytes();
    assert_eq!(removed.is_ok(), body.len() == 16 && !is_own, "{removed:?}");
    assert!(unlock(&store).is_some(), "the one that is used is never removed");
}
