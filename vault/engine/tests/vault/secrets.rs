//! What is never used twice: the salt of an object, from which its key comes; the key of block hashes, which agents hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use holdfast_vault_engine::{
    Action, BeginBackup, ClockTrust, CollectOptions, Compaction, KeyFile, Keys, LockMode, MapLayer,
    Passphrase, Storage, Unlock, Vault,
};
use object_store::memory::InMemory;
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::agent::read_map;
use super::support::anatomy::Anatomist;
use super::support::faulty::{Fault, Faulty};
use super::support::paced::{Pace, Paced, Request};
use super::support::s3::new_key;
use super::support::{Image, TestVault, back_up, begin, finish, request, restore_disk, send_changes};
use crate::support::garbage::collect_garbage;

const MIB: usize = 1 << 20;
const KINDS: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/// All that was ever written, or tried to be, by salt.
#[derive(Debug, Default)]
struct Salts(Mutex<HashMap<Vec<u8>, (String, Bytes)>>);

impl Pace for Salts {
    fn before(&self, request: Request<'_>) -> BoxFuture<'static, ()> {
        let bytes = request.payload.map(|payload| Bytes::from(payload.clone()));
        // `vault.json` and recipients have no such header.
        if let Some(bytes) = bytes.filter(|bytes| bytes.starts_with(b"HOLDFST1")) {
            let written = (request.name.to_owned(), bytes.clone());
            let before = self.0.lock().unwrap().insert(bytes[48..80].to_vec(), written.clone());
            // A write whose answer was lost is tried again.
            assert!(before.is_none_or(|before| before == written), "{} has the salt of another", written.0);
        }
        // Two that are at it at the same time choose the same names.
        tokio::task::yield_now().boxed()
    }
}

async fn collect(vault: &Vault, keep_leftovers: Duration) {
    let options = CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        least_gain: 1,
        keep_leftovers,
        ..CollectOptions::new(Utc::now() + TimeDelta::hours(1))
    };
    collect_garbage(vault, options, |_| {}).await.unwrap();
}

#[tokio::test]
async fn every_object_that_was_ever_written_has_a_salt_of_its_own() {
    let (_dir, key) = new_key();
    let salts = Arc::new(Salts::default());
    let faulty = Faulty::over(Arc::new(InMemory::new()), Fault::Conflict, "", 20, 5);
    let storage = || Storage::over(Paced::over(Arc::clone(&faulty) as _, Arc::clone(&salts) as _));
    let vault = Vault::create(storage(), &key).await.unwrap();
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, MIB);
    let (mut points, mut truth) = (Vec::new(), image.clone());
    for round in 0..12 {
        // The same once more, as after damage: what is sealed is the same, its salts are not.
        let damaged = if round % 4 == 3 { vault.point_seqs(machine).await.unwrap() } else { Vec::new() };
        let wanted = BeginBackup { damaged, ..request(machine, &[("sda", &image)]) };
        let lost = begin(&vault, wanted.clone()).await.unwrap();
        send_changes(&lost, "sda", &image).await.unwrap();
        lost.flush().await.unwrap();
        if round % 3 == 0 {
            collect(&vault, Duration::ZERO).await;
        }
        let backup = begin(&vault, BeginBackup { attempt: 2, ..wanted }).await.unwrap();
        points.push(finish(&backup, &[("sda", &image)]).await.unwrap());
        truth = image.clone();
        image.change(round, 40);
    }
    let most = points.iter().map(|point| point.disks[0].stack.len()).max().unwrap();
    assert!(most < 4, "no deltas were merged: {most}");
    let until = (Utc::now() + TimeDelta::days(9)).timestamp_micros();
    let lock = Action::Lock { mode: LockMode::Governance, until };
    for action in [lock, Action::Unlock, AT_ONCE, Action::Undelete] {
        vault.decide_point(machine, points[11].seq, action, "eva").await.unwrap();
    }
    for point in &points[..11] {
        vault.decide_point(machine, point.seq, AT_ONCE, "eva").await.unwrap();
        let other = Vault::open(storage(), &key).await.unwrap();
        tokio::join!(collect(&vault, Duration::ZERO), collect(&other, Duration::ZERO));
    }
    // What is left wears off as well.
    for round in 20..28 {
        truth.change(round, 60);
        points.push(back_up(&vault, machine, &[("sda", &truth)]).await.unwrap());
        let before = &points[points.len() - 2];
        vault.decide_point(machine, before.seq, AT_ONCE, "eva").await.unwrap();
        collect(&vault, Duration::ZERO).await;
    }
    let keys = Keys::unlock(storage(), Unlock::Key(&key)).await.unwrap();
    keys.add_identity("office", &KeyFile::new().public()).await.unwrap();
    let passphrase = Passphrase::new("as long as it has to be".to_owned());
    let added = keys.add_passphrase("safe", &passphrase).await.unwrap();
    keys.remove(added.id).await.unwrap();
    restore_disk(&vault, points.last().unwrap(), "sda", &truth).await;

    let salts = salts.0.lock().unwrap();
    let kinds: BTreeSet<u8> = salts.values().map(|(_, bytes)| bytes[8]).collect();
    assert_eq!(kinds, KINDS.into(), "kinds of objects that were written");
    let mut generations: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in salts.values().filter(|(name, _)| name.starts_with("seg/")) {
        *generations.entry(name.rsplit_once('.').unwrap().1).or_default() += 1;
    }
    assert!(generations.len() > 2, "{generations:?}");
    println!("{} salts, segments by generation {generations:?}", salts.len());
}

/// Whoever has the map of one machine learns nothing from it about another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_block_has_another_hash_in_the_map_of_each_machine_and_generation() {
    let (test, other) = (TestVault::new().await, TestVault::new().await);
    let machines = [Uuid::new_v4(), Uuid::new_v4()];
    let image = Image::noise(1, MIB);
    let (mut keys, mut maps) = (BTreeSet::new(), Vec::new());
    for (vault, machine) in
        [(&test.vault, machines[0]), (&test.vault, machines[1]), (&other.vault, machines[0])]
    {
        back_up(vault, machine, &[("sda", &image)]).await.unwrap();
        let backup = begin(vault, request(machine, &[("sda", &image)])).await.unwrap();
        let map = read_map(&backup, "sda", MapLayer::Merged).await.unwrap();
        assert_eq!(map.len(), image.blocks());
        keys.insert(backup.disk_base("sda").unwrap().block_hash_key);
        maps.push(map);
    }
    assert_eq!(keys.len(), 3, "a key has come twice");
    let mut hashes = BTreeSet::new();
    for hash in maps.iter().flat_map(|map| map.values()) {
        assert!(hashes.insert(*hash), "blocks have the same hash under two keys");
    }
    // Of these, the first generation is the one in use.
    let anatomist = Anatomist::new(&test.path, &test.key_path);
    for machine in machines {
        assert!(keys.contains(&anatomist.block_hash_key(machine, 1)));
        for generation in [0, 2, 3] {
            assert!(keys.insert(anatomist.block_hash_key(machine, generation)), "{generation}");
        }
    }
}
