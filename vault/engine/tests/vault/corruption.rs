//! Every kind of object, every region of its bytes: flipped, cut, lengthened, deleted, swapped, replaced by an older one.
//! Either that is noticed and named, or nothing changes. Wrong bytes are never restored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use holdfast_vault_engine::{Point, PointStatus, Storage, Vault, VaultError, chain};
use uuid::Uuid;

use super::support::anatomy::{Anatomist, Region};
use super::support::image::Random;
use super::support::{Image, TestVault, back_up, begin, request, restore, send_changes};

/// A vault with every kind of object, and what its points must restore to.
struct Subject {
    test: TestVault,
    machines: Vec<Uuid>,
    /// By point: disk and content.
    truth: HashMap<Uuid, Vec<(&'static str, Image)>>,
    anatomist: Anatomist,
}

/// What a reader sees of a vault.
#[derive(Debug)]
struct Seen {
    /// Points that restored whole, all disks compared with the truth.
    whole: BTreeSet<Uuid>,
    /// Texts of errors, with their causes.
    errors: Vec<String>,
}

impl Subject {
    /// Two machines: two disks with holes, an incremental, a shrunk disk, an interrupted backup whose segments were taken
    /// over, one that is still open.
    async fn new() -> Self {
        let test = TestVault::new().await;
        let mut truth = HashMap::new();
        let mut machines = Vec::new();
        for seed in [80, 90] {
            let machine = Uuid::new_v4();
            machines.push(machine);
            let mut one = Image::mixed(seed, 300_000);
            let mut two = Image::mixed(seed + 1, 200_000);
            let mut note = |point: Point, one: &Image, two: &Image| {
                truth.insert(point.id, vec![("one", one.clone()), ("two", two.clone())]);
            };
            let disks = [("one", &one), ("two", &two)];
            note(back_up(&test.vault, machine, &disks).await.unwrap(), &one, &two);
            one.change(seed + 2, 6);
            two.resize(150_000);
            let disks = [("one", &one), ("two", &two)];
            note(back_up(&test.vault, machine, &disks).await.unwrap(), &one, &two);
            one.change(seed + 3, 9);
            let disks = [("one", &one), ("two", &two)];
            let interrupted = begin(&test.vault, request(machine, &disks)).await.unwrap();
            send_changes(&interrupted, "one", &one).await.unwrap();
            interrupted.flush().await.unwrap();
            drop(interrupted);
            two.change(seed + 4, 4);
            let disks = [("one", &one), ("two", &two)];
            note(back_up(&test.vault, machine, &disks).await.unwrap(), &one, &two);
            begin(&test.vault, request(machine, &disks)).await.unwrap();
        }
        let anatomist = Anatomist::new(&test.path, &test.key_path);
        let subject = Self { test, machines, truth, anatomist };
        let seen = subject.look().await;
        assert_eq!(seen.whole.len(), 6);
        assert!(seen.errors.is_empty(), "{seen:?}");
        subject
    }

    fn path(&self, name: &str) -> PathBuf {
        self.test.path.join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Opens the vault as after a restart and restores every point that is listed. Panics on wrong bytes.
    async fn look(&self) -> Seen {
        let mut seen = Seen { whole: BTreeSet::new(), errors: Vec::new() };
        let vault = match self.test.reopen().await {
            Ok(vault) => vault,
            Err(error) => {
                seen.errors.push(chain(&error));
                return seen;
            }
        };
        for machine in &self.machines {
            let points = match vault.points(*machine).await {
                Ok(points) => points,
                Err(error) => {
                    seen.errors.push(chain(&error));
                    continue;
                }
            };
            for status in points {
                match status {
                    PointStatus::Damaged { error, .. } => seen.errors.push(chain(&error)),
                    PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                        self.restore(&vault, &point, &mut seen).await
                    }
                }
            }
        }
        seen
    }

    async fn restore(&self, vault: &Vault, point: &Point, seen: &mut Seen) {
        let truth = self.truth.get(&point.id).expect("a point is listed that nobody made");
        let mut whole = true;
        for (disk, content) in truth {
            match restore(vault, point, disk).await {
                Ok(restored) => {
                    assert!(restored == *content, "WRONG BYTES: disk {disk} of point {}", point.seq)
                }
                Err(error) => {
                    whole = false;
                    let text = chain(&error);
                    let VaultError::DamagedRange {
                        machine,
                        point: id,
                        disk: named,
                        first_byte,
                        end_byte,
                        ..
                    } = &error
                    else {
                        panic!("a disk does not restore, and the error does not say what: {text}");
                    };
                    assert_eq!((&**machine, *id, &**named), ("web1", point.id, *disk));
                    assert!(first_byte < end_byte && *end_byte <= content.size_bytes(), "{text}");
                    seen.errors.push(text);
                }
            }
        }
        if whole {
            seen.whole.insert(point.id);
        }
    }

    /// Looks at the vault while `name` holds these bytes (`None`: is gone).
    async fn look_with(&self, name: &str, bytes: Option<&[u8]>) -> Seen {
        let path = self.path(name);
        let good = std::fs::read(&path).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let seen = self.look().await;
        std::fs::write(&path, good).unwrap();
        seen
    }
}

/// The kind of an object by its name, a point told from an abort.
fn kind(subject: &Subject, name: &str) -> &'static str {
    match name.split('/').next().unwrap() {
        "vault.json" => "vault.json",
        "keys" => "key",
        "open" => "open",
        "seg" => "segment",
        "points" if subject.read(name)[8] == 3 => "point",
        "points" => "abort",
        other => panic!("an unknown kind of object: {other}"),
    }
}

/// Checks what must follow from damage to this region (`None`: to the whole) of this object. `all` is the number of points.
fn judge(kind: &str, region: Option<Region>, name: &str, what: &str, seen: &Seen, all: usize) {
    let noticed = !seen.errors.is_empty();
    assert!(noticed || seen.whole.len() == all, "{what} of {name}: a point is gone without a word");
    let may_pass = match (kind, region) {
        // Says nothing about a point; a changed byte of JSON may mean the same.
        ("open" | "vault.json", _) => true,
        // For the next backup only (`heal` looks at those): tables, extents of zeros, pages of hashes. And cells whose blocks all
        // were overwritten before the commit.
        ("segment", Some(Region::Table | Region::ZeroCell | Region::MetaCell | Region::DataCell)) => true,
        _ => false,
    };
    assert!(noticed || may_pass, "{what} of {name} ({region:?}) was not noticed");
    for error in &seen.errors {
        let named = match kind {
            "vault.json" | "key" => {
                ["vault.json", "keys/", "does not open the vault"].iter().any(|words| error.contains(words))
            }
            "segment" => error.contains(name) || error.contains("delta of backup"),
            _ => error.contains(name),
        };
        assert!(named, "{what} of {name}: the error names something else: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes() {
    let subject = Subject::new().await;
    let all = subject.truth.len();
    let mut random = Random(100);
    // Noticed flips and all flips, by kind and region: what this test did reach.
    let mut tally: BTreeMap<(&str, Region), (usize, usize)> = BTreeMap::new();
    for name in subject.test.objects() {
        let good = subject.read(&name);
        let kind = kind(&subject, &name);
        for (region, range) in subject.anatomist.regions(&name, &good) {
            // All bytes of one object of each kind, one of each region of the others. The ends are where lengths and tags are.
            let is_first = !tally.contains_key(&(kind, region));
            let inside = range.start + random.below(range.len());
            let offsets: BTreeSet<usize> = match (is_first, region) {
                (true, Region::Header | Region::Footer) => range.clone().collect(),
                (true, _) => BTreeSet::from([range.start, inside, range.end - 1]),
                (false, _) => BTreeSet::from([[range.start, inside, range.end - 1][random.below(3)]]),
            };
            for at in offsets {
                let mut bad = good.clone();
                bad[at] ^= 1 << random.below(8);
                let seen = subject.look_with(&name, Some(&bad)).await;
                judge(kind, Some(region), &name, &format!("flipping byte {at}"), &seen, all);
                let (noticed, flips) = tally.entry((kind, region)).or_default();
                *noticed += usize::from(!seen.errors.is_empty());
                *flips += 1;
            }
        }
    }
    for ((kind, region), (noticed, flips)) in &tally {
        println!("{kind} {region:?}: {noticed} of {flips} flips noticed");
        // No restore reads `open/`: collections do, and whoever concludes (`believed`).
        let never = matches!((kind, region), (&"open", _) | (&"segment", Region::Table | Region::ZeroCell));
        assert_eq!(*noticed == 0, never, "{kind} {region:?}: {noticed} of {flips}");
        if *kind == "point" || *kind == "key" {
            assert_eq!(noticed, flips, "{kind} {region:?}");
        }
    }
    let kinds: BTreeSet<&str> = tally.keys().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, BTreeSet::from(["abort", "key", "open", "point", "segment", "vault.json"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_lengthened_and_deleted() {
    let subject = Subject::new().await;
    let all = subject.truth.len();
    for name in subject.test.objects() {
        let good = subject.read(&name);
        let kind = kind(&subject, &name);
        let mut lengths: BTreeSet<usize> = [0, 1, 8, 111, 112, 113, good.len() / 2].into_iter().collect();
        lengths.extend([1, 43, 44, 45].map(|less| good.len().saturating_sub(less)));
        for (_, range) in subject.anatomist.regions(&name, &good).iter().take(6) {
            lengths.insert(range.start);
        }
        for length in lengths.into_iter().filter(|length| *length < good.len()) {
            let seen = subject.look_with(&name, Some(&good[..length])).await;
            judge(kind, None, &name, &format!("cutting to {length} bytes"), &seen, all);
        }
        for more in [1, 16, 5000] {
            let mut bad = good.clone();
            bad.resize(good.len() + more, 0);
            let seen = subject.look_with(&name, Some(&bad)).await;
            // White space after JSON is nothing; zeros are not white space.
            judge(kind, None, &name, &format!("adding {more} bytes"), &seen, all);
        }
        let seen = subject.look_with(&name, None).await;
        match kind {
            "open" | "abort" => assert_eq!(seen.whole.len(), all, "deleting {name}"),
            // The newest point's absence is told by its hash in the catalogue and at the agent, not by the vault.
            "point" if seen.errors.is_empty() => {
                assert_eq!(seen.whole.len(), all - 1);
                let newest = subject
                    .test
                    .objects()
                    .iter()
                    .rev()
                    .find(|other| {
                        other.starts_with(&name[..name.rfind('/').unwrap()])
                            && self::kind(&subject, other) == "point"
                    })
                    .cloned();
                assert_eq!(newest.as_deref(), Some(&*name), "a point was deleted and nothing said so");
            }
            "vault.json" => assert!(seen.errors.iter().any(|error| error.contains("vault.json"))),
            _ => judge(kind, None, &name, "deleting", &seen, all),
        }
    }
}

/// Every object in the place of every other one of its kind, of its own machine and of the other, and of a third of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_objects() {
    let subject = Subject::new().await;
    let all = subject.truth.len();
    let names: Vec<String> = subject
        .test
        .objects()
        .into_iter()
        .filter(|name| name != "vault.json" && !name.starts_with("keys/"))
        .collect();
    for (at, name) in names.iter().enumerate() {
        let folder = |name: &str| name.split('/').next().map(str::to_owned);
        let is_tried = |other: usize, its: &str| other % 3 == at % 3 || folder(its) == folder(name);
        for (_, other) in names.iter().enumerate().filter(|(i, its)| *i != at && is_tried(*i, its)) {
            let seen = subject.look_with(name, Some(&subject.read(other))).await;
            let kind = kind(&subject, name);
            judge(kind, None, name, &format!("the bytes of {other} in the place"), &seen, all);
        }
    }
}

/// A segment with another's cells under its own name and key: sealing proves nothing here, only the commitments do.
/// The same for an older state of the whole vault's objects: points of another vault, made with the same key file.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_twin_vault() {
    let subject = Subject::new().await;
    let all = subject.truth.len();
    let machine = subject.machines[0];
    // The same machine, sequence numbers and disks, another vault.
    let twin_dir = tempfile::tempdir().unwrap();
    let twin = Vault::create(Storage::directory(twin_dir.path()).unwrap(), &subject.test.key).await.unwrap();
    let image = Image::mixed(101, 300_000);
    for _ in 0..2 {
        back_up(&twin, machine, &[("one", &image), ("two", &image)]).await.unwrap();
    }
    let mut replaced = 0;
    for name in subject.test.objects() {
        let Ok(foreign) = std::fs::read(twin_dir.path().join(&name)) else { continue };
        replaced += 1;
        let seen = subject.look_with(&name, Some(&foreign)).await;
        let kind = kind(&subject, &name);
        judge(kind, None, &name, "the same object of another vault", &seen, all);
        if kind == "vault.json" {
            assert!(seen.whole.is_empty() && !seen.errors.is_empty(), "{seen:?}");
        }
    }
    assert!(replaced >= 5, "the twin has other names: {replaced}");
    // Its keys under this vault's key id.
    let wrapped = |path: &std::path::Path| {
        std::fs::read_dir(path.join("keys")).unwrap().next().unwrap().unwrap().path()
    };
    let foreign = std::fs::read(wrapped(twin_dir.path())).unwrap();
    let own = wrapped(&subject.test.path);
    let name = own.strip_prefix(&subject.test.path).unwrap().to_str().unwrap().to_owned();
    let seen = subject.look_with(&name, Some(&foreign)).await;
    assert!(seen.whole.is_empty() && !seen.errors.is_empty(), "{seen:?}");
}
