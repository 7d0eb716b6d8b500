use chrono::Utc;
use holdfast_vault_format::Extent;
use holdfast_vault_format::delta::{HashRun, Place, Placed, decode_extents, decode_hashes};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::{Backup, BeginBackup, Begun, Consistency, DiskSpec, KeyFile, Storage, Vault};

/// A backup that has begun, in a vault of its own.
pub(in crate::commit) async fn backup() -> (TempDir, Backup) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    std::fs::create_dir(&path).unwrap();
    let key = KeyFile::generate(&dir.path().join("vault.key")).unwrap();
    let vault = Vault::create(Storage::directory(&path).unwrap(), &key).await.unwrap();
    let request = BeginBackup {
        machine: Uuid::new_v4(),
        machine_name: "web1".to_owned(),
        snapshot_id: Uuid::new_v4(),
        step_id: Uuid::new_v4(),
        attempt: 1,
        consistency: Consistency::Crash,
        taken_at: Utc::now(),
        disks: vec![DiskSpec { name: "sda".to_owned(), size_bytes: 1 << 30 }],
        at_least_seq: 0,
        damaged: Vec::new(),
    };
    let Begun::Open(backup) = vault.begin(request).await.unwrap() else { panic!("there was no backup yet") };
    (dir, backup)
}

/// With a gap after each, so that none is joined with the next.
fn extents(count: u64) -> impl Iterator<Item = Placed> {
    (0..count).map(|number| Placed {
        extent: Extent { first_block: 2 * number, block_count: 1 },
        place: Place::Zero,
    })
}

/// Runs of so many hashes, with a gap after each.
fn runs(lengths: &[u64]) -> Vec<HashRun> {
    let mut at = 0;
    let run = |&count: &u64| {
        let extent = Extent { first_block: at, block_count: count };
        at += count + 1;
        HashRun { extent, hashes: (0..count).collect() }
    };
    lengths.iter().map(run).collect()
}

/// Writes pages and reads them back: the entries of each.
async fn written<T: Entry>(
    entries: impl IntoIterator<Item = T>,
    decode: fn(&[u8], &PageRef) -> Result<Vec<T>, holdfast_vault_format::DecodeError>,
) -> (u64, Vec<Vec<T>>) {
    let (_dir, backup) = backup().await;
    let mut pages = Pages::new(Arc::clone(&backup.shared));
    for entry in entries {
        pages.push(entry).await.unwrap();
    }
    let written = pages.finish().await.unwrap();
    backup.flush().await.unwrap();
    let shared = &backup.shared;
    let mut read = Vec::new();
    for page in &written.pages {
        let bytes = shared.vault.delta_page(shared.request.machine, backup.seq(), page).await.unwrap();
        read.push(decode(&bytes, page).unwrap());
    }
    (written.entries, read)
}

#[tokio::test]
async fn a_page_ends_at_so_many_entries() {
    let limit = PAGE_ENTRIES as u64;
    for (count, lengths) in [
        (0, vec![]),
        (limit - 1, vec![PAGE_ENTRIES - 1]),
        (limit, vec![PAGE_ENTRIES]),
        (limit + 1, vec![PAGE_ENTRIES, 1]),
        (2 * limit + 1, vec![PAGE_ENTRIES, PAGE_ENTRIES, 1]),
    ] {
        let (entries, pages) = written(extents(count), decode_extents).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
        assert_eq!(entries, count);
        assert!(pages.into_iter().flatten().eq(extents(count)));
    }
}

#[tokio::test]
async fn a_page_ends_at_so_many_hashes() {
    let limit = PAGE_HASHES as u64;
    let parts = limit / 4096;
    let full = vec![4096; usize::try_from(parts).unwrap()];
    for (runs_of, pages_of) in [
        (vec![1, limit - 1], vec![2]),
        (vec![1, limit - 1, 1], vec![2, 1]),
        (vec![2, limit - 1, 1], vec![1, 2]),
        (full.clone(), vec![full.len()]),
        ([&full[..], &[1]].concat(), vec![full.len(), 1]),
        ([&full[..], &full[..], &[1]].concat(), vec![full.len(), full.len(), 1]),
    ] {
        let (entries, pages) = written(runs(&runs_of), decode_hashes).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), pages_of, "{runs_of:?}");
        assert_eq!(entries, runs_of.len() as u64);
        assert!(pages.into_iter().flatten().eq(runs(&runs_of)));
    }
}

#[tokio::test]
async fn a_part_of_a_delta_is_no_larger_than_a_cell_of_metadata() {
    let (_dir, backup) = backup().await;
    write_meta(&backup.shared, vec![7; MAX_META_BYTES]).await.unwrap();
    for more in [1, 2] {
        let refused = write_meta(&backup.shared, vec![7; MAX_META_BYTES + more]).await;
        assert!(matches!(refused, Err(VaultError::Mismatch { .. })), "{refused:?}");
    }
}
