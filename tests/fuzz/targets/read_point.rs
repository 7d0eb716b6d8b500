//! Points whose objects are sealed and signed as they should be and hold what the fuzzer likes: reading them ends with every
//! block once or with an error.
#![no_main]

use arbitrary::Unstructured;
use holdfast_fuzz::hostile;
use holdfast_fuzz::read::read_disk;
use holdfast_fuzz::vault::{MACHINE, block_on, open};
use holdfast_vault_engine::PointStatus;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(objects) = hostile::machine(&mut Unstructured::new(data)) else { return };
    let (_store, vault) = open(objects);
    block_on(async {
        let points = vault.points(MACHINE).await.expect("damage is told point by point");
        for status in points {
            let (PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _)) = status else { continue };
            for disk in &point.disks {
                if let Err(error) = read_disk(&vault, &point, &disk.name).await {
                    assert!(error.is_damage(), "what is in the vault is damage, not {error:?}");
                }
            }
        }
    });
});
