//! Points, opens, aborts, events and collections, opened; points and events as they are signed.
#![no_main]

use holdfast_fuzz::vault::signer;
use holdfast_vault_format::DecodeError;
use holdfast_vault_format::collection::{Collection, Condemned};
use holdfast_vault_format::event::Event;
use holdfast_vault_format::record::{Abort, Open, Point, verify};
use libfuzzer_sys::fuzz_target;

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
        _ => {}
    }
});
