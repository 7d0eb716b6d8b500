//! The power is cut at every request that changes a vault, through all that ever changes one: what was said before is true
//! afterwards, and everything goes on.
//!
//! Once on real file systems, of which only what reached the device is left: that shows what is not synced. And once with objects
//! alone, where what was deleted and not synced comes back in any mixture, as no file system can be made to do at will.

mod check;
mod ledger;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_vault_engine::{KeyFile, Storage};

use check::{Check, Found};
use ledger::{Key, Ledger, Said};
use work::Work;

use super::support::disk::{Disk, FORMATS};
use super::support::image::Random;
use super::support::tape::Tape;
use super::support::watched::{Change, Look, Watched, When};

/// Cuts of each kind that are looked at: `HOLDFAST_CUTS`, a number or `all`.
fn cuts(default: usize) -> usize {
    match std::env::var("HOLDFAST_CUTS").as_deref() {
        Ok("all") => usize::MAX,
        Ok(count) => count.parse().unwrap(),
        Err(_) => default,
    }
}

/// So many moments, spread evenly; others of each kind, and with each `HOLDFAST_CUTS_SEED` (1). And those just after cells were
/// acknowledged or a key was removed: chance may miss them all.
fn chosen<'s>(said: impl Iterator<Item = &'s Said>, count: usize, kind: u64) -> BTreeSet<usize> {
    let said: Vec<&Said> = said.collect();
    let seed: u64 = std::env::var("HOLDFAST_CUTS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = Random(seed * 10 + kind);
    let count = count.min(said.len());
    let spread = (0..count).map(|nth| {
        let (first, end) = (nth * said.len() / count, (nth + 1) * said.len() / count);
        first + random.below(end - first)
    });
    let told = |said: &Said| (said.acknowledged.values().map(|of| of.seq).sum::<u64>(), said.second_key);
    let just_told = (1..said.len()).filter(|at| {
        let (before, after) = (told(said[at - 1]), told(said[*at]));
        after.0 > before.0 || after.1 == Key::Removed && before.1 != Key::Removed
    });
    spread.chain(just_told).collect()
}

fn told(change: Change<'_>, when: When, said: &Said) -> String {
    let (verb, name) = match change {
        Change::Put(name, _) => ("is created", name),
        Change::Delete(name) => ("is deleted", name),
    };
    format!("{}: {when:?} {name} {verb}", said.doing)
}

/// Works in a directory, looked at before and after every change.
async fn work(ledger: &Ledger, path: &Path, keys: (&KeyFile, &KeyFile), look: Arc<Look>) {
    let storage = Storage::directory(path).unwrap().through(|inner| Watched::over(inner, look));
    Work { ledger: ledger.clone(), key: keys.0, second: keys.1 }.do_all(storage).await;
}

async fn check(what: &str, said: &Said, keys: (&KeyFile, &KeyFile), path: &Path) -> Found {
    println!("{what}");
    Check { said, key: keys.0, second: keys.1 }.of(path).await
}

fn must_have_proved(found: &Found) {
    println!("{found:?}");
    assert!(found.points > 0 && found.decisions > 0 && found.deleted_segments > 0, "{found:?}");
    assert!(found.acknowledged_blocks > 0, "{found:?}");
}

/// What the work is meant to go through.
fn must_have_done(names: &[String]) {
    let deleted = names.iter().filter(|name| name.ends_with("is deleted")).count();
    for part in ["open/", "points/", "seg/", ".1 is created", ".set is deleted", ".done is created", "keys/"]
    {
        assert!(names.iter().any(|name| name.contains(part)), "{part}: {names:#?}");
    }
    assert!(deleted > 8, "{names:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_power_is_cut_what_was_said_stays_true() {
    let (key, second) = (KeyFile::new(), KeyFile::new());
    for (kind, format) in (1..).zip(FORMATS) {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::make(dir.path(), format) else { continue };
        let path = disk.mount_point.join("vault");
        std::fs::create_dir(&path).unwrap();
        // Made by hand, so synced by hand.
        std::fs::File::open(&disk.mount_point).unwrap().sync_all().unwrap();
        let ledger = Ledger::default();
        let tape = Arc::new(Mutex::new(Some((Tape::of(&disk.backing), Vec::<(String, Said)>::new()))));
        let look: Arc<Look> = {
            let (ledger, tape) = (ledger.clone(), Arc::clone(&tape));
            Arc::new(move |change, when| {
                // First what was said: what is said while the device is read may be on it or not.
                let said = ledger.says().clone();
                if let Some((tape, moments)) = &mut *tape.lock().unwrap() {
                    moments.push((told(change, when, &said), said));
                    tape.note();
                }
            })
        };
        work(&ledger, &path, (&key, &second), look).await;
        let (mut tape, mut moments) = tape.lock().unwrap().take().unwrap();
        let said = ledger.says().clone();
        moments.push(("at the end".to_owned(), said));
        tape.note();
        must_have_done(&moments.iter().map(|(what, _)| what.clone()).collect::<Vec<_>>());
        // Two file systems with one id cannot be mounted together.
        drop(disk);

        let (mut found, count) = (Found::default(), cuts(10));
        for moment in chosen(moments.iter().map(|(_, said)| said), count, kind) {
            let (what, said) = &moments[moment];
            let cut = Disk::at(&dir.path().join(format!("cut-{moment}")));
            tape.write(moment, &cut.backing);
            assert!(cut.mount());
            let what = format!("{}, {moment} of {}: {what}", format[0], moments.len());
            found.add(&check(&what, said, (&key, &second), &cut.mount_point.join("vault")).await);
            std::fs::remove_file(&cut.backing).unwrap();
        }
        must_have_proved(&found);
    }
}

/// The objects of a vault, and what may come back.
#[derive(Clone, Default)]
struct Objects {
    there: BTreeMap<String, Bytes>,
    deleted: BTreeMap<String, Bytes>,
}

impl Objects {
    fn change(&mut self, change: Change<'_>) {
        match change {
            Change::Put(name, bytes) => {
                self.deleted.remove(name);
                self.there.insert(name.to_owned(), bytes.clone());
            }
            Change::Delete(name) => {
                if let Some((name, bytes)) = self.there.remove_entry(name) {
                    self.deleted.insert(name, bytes);
                }
            }
        }
    }

    /// Writes what is there, and of the rest what chance says.
    fn write(&self, path: &Path, said: &Said, random: &mut Random) {
        let put = |name: &str, bytes: &[u8]| {
            let path = path.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        for (name, bytes) in &self.there {
            put(name, bytes);
        }
        let all_of_them = random.below(3) == 0;
        for (name, bytes) in &self.deleted {
            // That a key is removed is said only after that was synced, which the other test looks at.
            let is_durable = name.starts_with("keys/") && said.second_key == Key::Removed;
            if !is_durable && (all_of_them || random.below(2) == 0) {
                put(name, bytes);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_back_after_a_power_cut_does_no_harm() {
    let (key, second) = (KeyFile::new(), KeyFile::new());
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::default();
    let seen = Arc::new(Mutex::new((Objects::default(), Vec::<(String, Said, Objects)>::new())));
    let look: Arc<Look> = {
        let (ledger, seen) = (ledger.clone(), Arc::clone(&seen));
        Arc::new(move |change, when| {
            let said = ledger.says().clone();
            let (objects, moments) = &mut *seen.lock().unwrap();
            if when == When::Done {
                objects.change(change);
            }
            moments.push((told(change, when, &said), said, objects.clone()));
        })
    };
    let path = dir.path().join("vault");
    std::fs::create_dir(&path).unwrap();
    work(&ledger, &path, (&key, &second), look).await;
    let (objects, mut moments) = std::mem::take(&mut *seen.lock().unwrap());
    moments.push(("at the end".to_owned(), ledger.says().clone(), objects));
    must_have_done(&moments.iter().map(|(what, ..)| what.clone()).collect::<Vec<_>>());

    let (mut found, mut came_back, count) = (Found::default(), 0, cuts(20));
    let mut random = Random(5);
    for moment in chosen(moments.iter().map(|(_, said, _)| said), count, 0) {
        let (what, said, objects) = &moments[moment];
        let path = dir.path().join(format!("cut-{moment}"));
        std::fs::create_dir(&path).unwrap();
        objects.write(&path, said, &mut random);
        came_back += usize::from(!objects.deleted.is_empty());
        let what = format!("{moment} of {}: {what}", moments.len());
        found.add(&check(&what, said, (&key, &second), &path).await);
        std::fs::remove_dir_all(&path).unwrap();
    }
    must_have_proved(&found);
    assert!(came_back > 0);
}
