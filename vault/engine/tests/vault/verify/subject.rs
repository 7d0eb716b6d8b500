//! Vaults to be harmed, what their points must restore to, and what a restore says of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, CollectOptions, Compaction, KeyFile, Keys, LockMode, Point, PointStatus, Samples, Storage,
    Unlock, Vault, VerifyDepth, VerifyPace, VerifyReport, VerifyScope,
};
use uuid::Uuid;

use crate::collect::AT_ONCE;
use crate::support::anatomy::Anatomist;
use crate::support::garbage::collect_garbage;
use crate::support::{Image, TestVault, back_up, begin, request, restore, send_changes};

pub(super) const DISKS: [&str; 2] = ["one", "two"];

/// Disks of points, by machine.
pub(super) type Disks = BTreeSet<(Uuid, u64, &'static str)>;

pub(super) struct Subject {
    pub(super) test: TestVault,
    /// The first one, or the only one.
    pub(super) machine: Uuid,
    /// Those that are not purged.
    pub(super) points: Vec<Point>,
    pub(super) anatomist: Anatomist,
    /// Keys that open it, and the object of each.
    pub(super) keys: [(KeyFile, String); 2],
    /// By point, of all that ever were.
    truth: HashMap<Uuid, [Image; 2]>,
    /// What lay under the same name in another life of the vault, or what another generation has.
    older: BTreeMap<String, Vec<Vec<u8>>>,
}

/// What a restore of everything came to.
pub(super) struct Restored {
    pub(super) broken: Disks,
    /// Points of which every disk restored.
    pub(super) whole: BTreeSet<(Uuid, u64)>,
}

impl Subject {
    /// Two disks; the first shrinks and grows, points lie on each other, and a cell is left over that none needs. One is locked, one
    /// was deleted for a while. The last point was made in another life already, before the vault was put back from a copy.
    pub(super) async fn new() -> Self {
        let mut subject = Self::empty().await;
        let mut images = [Image::mixed(1, 900_000), Image::mixed(2, 200_000)];
        for round in 0..3 {
            subject.back_up(&subject.test.reopen().await.unwrap(), subject.machine, &images).await;
            images[0].change(10 + round, 2);
            images[0].resize([700_000, 1_000_000, 1_000_000][usize::try_from(round).unwrap()]);
        }
        let kept = subject.all_objects();
        for life in 0..2 {
            let mut images = images.clone();
            images[0].change(50 + life, 3);
            // The data lies in another segment than the delta that names it: only its root tells the lives apart.
            let disks = [(DISKS[0], &images[0]), (DISKS[1], &images[1])];
            let lost = begin(&subject.test.vault, request(subject.machine, &disks)).await.unwrap();
            send_changes(&lost, DISKS[0], &images[0]).await.unwrap();
            lost.flush().await.unwrap();
            drop(lost);
            subject.back_up(&subject.test.reopen().await.unwrap(), subject.machine, &images).await;
            subject.decide_on_two().await;
            if life == 0 {
                for name in subject.all_objects().into_iter().filter(|name| !kept.contains(name)) {
                    let path = subject.test.path.join(&name);
                    subject.older.entry(name).or_default().push(std::fs::read(&path).unwrap());
                    std::fs::remove_file(&path).unwrap();
                }
                subject.points.pop();
            }
        }
        subject
    }

    /// The same without its first points, and compacted.
    pub(super) async fn worn() -> Self {
        let mut subject = Self::new().await;
        let vault = subject.test.reopen().await.unwrap();
        let mut images = subject.truth[&subject.points[3].id].clone();
        images[0].change(20, 150);
        subject.back_up(&vault, subject.machine, &images).await;
        let newest = subject.points.pop().unwrap();
        let unlock = Action::Unlock;
        vault.decide_point(subject.machine, subject.points[0].seq, unlock, "eva").await.unwrap();
        for point in std::mem::replace(&mut subject.points, vec![newest]) {
            vault.decide_point(subject.machine, point.seq, AT_ONCE, "eva").await.unwrap();
        }
        let before: BTreeMap<String, Vec<u8>> =
            subject.all_objects().into_iter().map(|name| (name.clone(), subject.read(&name))).collect();
        let options =
            CollectOptions { compaction: Compaction::All, least_gain: 1, ..CollectOptions::new(Utc::now()) };
        let report = collect_garbage(&vault, options, |_| {}).await.unwrap();
        assert!(report.compacted_segments > 0 && report.deleted_segments > 0, "{report:?}");
        subject.older.clear();
        for name in subject.all_objects() {
            if let Some(first) = name.strip_suffix(".1").and_then(|of| before.get(&format!("{of}.0"))) {
                subject.older.entry(name).or_default().push(first.clone());
            }
        }
        assert!(!subject.older.is_empty());
        subject
    }

    /// Two machines, of which the second borrows what the first one stored.
    pub(super) async fn clones() -> Self {
        let mut subject = Self::empty().await;
        let vault = subject.test.vault.deduplicating(Arc::new(Samples::within(0)));
        vault.learn_samples(|_| {}).await.unwrap();
        let mut images = [Image::mixed(3, 700_000), Image::mixed(4, 200_000)];
        for machine in [subject.machine, Uuid::new_v4()] {
            subject.back_up(&vault, machine, &images).await;
        }
        let borrower = subject.points[1].machine;
        assert!(subject.points[1].disks[0].stored_bytes < 100_000, "it borrows");
        images[0].change(30, 5);
        subject.back_up(&vault, borrower, &images).await;
        subject
    }

    async fn empty() -> Self {
        let test = TestVault::new().await;
        let anatomist = Anatomist::new(&test.path, &test.key_path);
        let storage = Storage::directory(&test.path).unwrap();
        let first = Keys::unlock(storage, Unlock::Key(&test.key)).await.unwrap();
        let (key, second) = (first.used().id, KeyFile::new());
        let added = first.add_identity("second", &second.public()).await.unwrap();
        let removed = first.add_identity("third", &KeyFile::new().public()).await.unwrap();
        first.remove(removed.id).await.unwrap();
        let keys = [
            (KeyFile::load(&test.key_path).unwrap(), format!("keys/{key}")),
            (second, format!("keys/{key}.{}", added.id)),
        ];
        let (truth, older) = (HashMap::new(), BTreeMap::new());
        Self { test, machine: Uuid::new_v4(), points: Vec::new(), anatomist, keys, truth, older }
    }

    async fn back_up(&mut self, vault: &Vault, machine: Uuid, images: &[Image; 2]) {
        let disks = [(DISKS[0], &images[0]), (DISKS[1], &images[1])];
        let point = back_up(vault, machine, &disks).await.unwrap();
        self.truth.insert(point.id, images.clone());
        self.points.push(point);
    }

    async fn decide_on_two(&self) {
        let vault = self.test.reopen().await.unwrap();
        let until = (Utc::now() + TimeDelta::days(1)).timestamp_micros();
        let lock = Action::Lock { mode: LockMode::Governance, until };
        for (point, action) in [(0, lock), (1, AT_ONCE), (1, Action::Undelete)] {
            vault.decide_point(self.machine, self.points[point].seq, action, "eva").await.unwrap();
        }
    }

    pub(super) async fn verify(&self, depth: VerifyDepth) -> VerifyReport {
        let vault = self.test.reopen().await.unwrap();
        vault.verify(VerifyScope::Vault, depth, VerifyPace::Full, |_| {}).await.unwrap()
    }

    /// Restores every disk of every point that is listed. Panics on wrong bytes.
    pub(super) async fn restore_all(&self) -> Restored {
        self.restore_from(&self.test.reopen().await.unwrap()).await
    }

    pub(super) async fn restore_from(&self, vault: &Vault) -> Restored {
        let mut restored = Restored { broken: Disks::new(), whole: BTreeSet::new() };
        let machines: BTreeSet<Uuid> = self.points.iter().map(|point| point.machine).collect();
        for machine in machines {
            for status in vault.points(machine).await.unwrap() {
                match status {
                    PointStatus::Damaged { seq, .. } => {
                        restored.broken.extend(DISKS.map(|disk| (machine, seq, disk)));
                    }
                    PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                        let truth = self.truth.get(&point.id).expect("a point is listed that nobody made");
                        let before = restored.broken.len();
                        for (disk, content) in DISKS.iter().zip(truth) {
                            match restore(vault, &point, disk).await {
                                Ok(image) => {
                                    assert!(image == *content, "WRONG BYTES: {disk} of {}", point.seq);
                                }
                                Err(error) => {
                                    assert!(error.is_damage(), "{error:?}");
                                    restored.broken.insert((machine, point.seq, disk));
                                }
                            }
                        }
                        if restored.broken.len() == before {
                            restored.whole.insert((machine, point.seq));
                        }
                    }
                }
            }
        }
        restored
    }

    /// What is told is what does not restore; a look at the structure alone misses what is `is_data`. Answers that. A point or a decision
    /// is told by its name (one of `named`).
    pub(super) async fn check(&self, what: &str, named: &[&str], is_data: bool) -> bool {
        let restored = self.restore_all().await;
        let report = self.verify(VerifyDepth::ReadData).await;
        assert!(!report.findings.is_empty(), "{what} is not found");
        assert_eq!(told(&report), restored.broken, "{what}: {:#?}", report.findings);
        assert_eq!(sound(&report), restored.whole, "{what}");
        let is_named = |name: &&str| report.findings.iter().any(|finding| finding.reason.contains(*name));
        assert!(named.is_empty() || named.iter().any(is_named), "{what}: {:#?}", report.findings);
        let structure = self.verify(VerifyDepth::Structure).await;
        if is_data {
            assert!(structure.findings.is_empty(), "{what}: {structure:?}");
        } else {
            assert!(!structure.findings.is_empty(), "{what}");
            assert_eq!(told(&structure), restored.broken, "{what}: {structure:?}");
        }
        is_data
    }

    /// The harm is to something that no restore reads, or cannot be seen: all points that are listed are as they were.
    pub(super) async fn check_harmless(&self, what: &str) {
        let restored = self.restore_all().await;
        assert!(restored.broken.is_empty(), "{what}: {:?}", restored.broken);
        for depth in [VerifyDepth::Structure, VerifyDepth::ReadData] {
            let report = self.verify(depth).await;
            assert!(report.findings.is_empty(), "{what}: {report:#?}");
            assert_eq!(sound(&report), restored.whole, "{what}");
        }
    }

    /// Segments, and the objects of points that are.
    pub(super) fn objects(&self) -> Vec<String> {
        let is_point = |name: &String| self.points.iter().any(|point| *name == point_name(point));
        self.all_objects().into_iter().filter(|name| name.starts_with("seg/") || is_point(name)).collect()
    }

    /// What verification looks at: [`Self::objects`], what was decided, and that there are no points where backups were given up.
    pub(super) fn looked_at(&self) -> BTreeSet<String> {
        let is_event = |name: &String| name.starts_with("points/") && name.contains('.');
        let others = self.all_objects().into_iter().filter(|name| is_event(name) || self.is_abort(name));
        others.chain(self.objects()).collect()
    }

    pub(super) fn is_abort(&self, name: &str) -> bool {
        let is_decided = || self.test.path.join(format!("{name}.{:08}", 1)).try_exists().unwrap();
        let is_point = || self.points.iter().any(|point| name == point_name(point));
        name.starts_with("points/") && !name.contains('.') && !is_decided() && !is_point()
    }

    /// Everything but what opens the vault.
    pub(super) fn all_objects(&self) -> Vec<String> {
        let names = self.test.objects().into_iter();
        names.filter(|name| !opens(name)).collect()
    }

    /// What opens the vault, and what says that a key was removed.
    pub(super) fn opening(&self) -> Vec<String> {
        self.test.objects().into_iter().filter(|name| opens(name)).collect()
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.test.path.join(name)).unwrap()
    }

    pub(super) fn older(&self, name: &str) -> &[Vec<u8>] {
        self.older.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it is the object of a machine's newest point: no later one names it.
    pub(super) fn is_newest_point(&self, name: &str) -> bool {
        let newest = |point: &Point| {
            !self.points.iter().any(|other| other.machine == point.machine && other.seq > point.seq)
        };
        self.points.iter().any(|point| newest(point) && name == point_name(point))
    }

    /// Whether it is the last event of its point: no later one says that it was there.
    pub(super) fn is_last_event(&self, name: &str) -> bool {
        let Some((point, number)) = name.rsplit_once('.') else { return false };
        let next = format!("{point}.{:08}", number.parse::<u32>().unwrap() + 1);
        name.starts_with("points/") && !self.test.path.join(next).try_exists().unwrap()
    }
}

fn opens(name: &str) -> bool {
    name == "vault.json" || name.starts_with("keys/")
}

fn point_name(point: &Point) -> String {
    format!("points/{}/{:020}", point.machine, point.seq)
}

/// What findings say, in the same words.
pub(super) fn told(report: &VerifyReport) -> Disks {
    let mut told = Disks::new();
    for finding in &report.findings {
        let Some(point) = &finding.point else { continue };
        match &point.disk {
            Some(name) => {
                let disk = DISKS.into_iter().find(|disk| disk == name).unwrap();
                told.insert((finding.machine, point.seq, disk));
            }
            None => told.extend(DISKS.map(|disk| (finding.machine, point.seq, disk))),
        }
    }
    told
}

pub(super) fn sound(report: &VerifyReport) -> BTreeSet<(Uuid, u64)> {
    let of = |(machine, seqs): (&Uuid, &BTreeMap<u64, [u8; 32]>)| -> Vec<_> {
        seqs.keys().map(|seq| (*machine, *seq)).collect()
    };
    report.sound.iter().flat_map(of).collect()
}
