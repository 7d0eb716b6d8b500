//! Verification says exactly what a restore would meet, before somebody needs it.

use std::collections::BTreeSet;

use holdfast_vault_engine::{
    Action, CollectOptions, Compaction, DamagedPoint, Point, Vault, VerifyDepth, VerifyPace, VerifyReport,
    VerifyScope,
};
use uuid::Uuid;

use super::collect::AT_ONCE;
use super::support::anatomy::{Anatomist, Region};
use super::support::image::Random;
use super::support::{Image, TestVault, back_up, begin, good_points, request, restore, send_changes};

struct Subject {
    test: TestVault,
    machine: Uuid,
    points: Vec<Point>,
    anatomist: Anatomist,
}

impl Subject {
    /// Two disks; the first shrinks and grows, points lie on each other, and a cell is left over that none needs.
    async fn new() -> Self {
        let test = TestVault::new().await;
        let machine = Uuid::new_v4();
        let mut one = Image::mixed(1, 900_000);
        let two = Image::mixed(2, 200_000);
        let mut points = Vec::new();
        for round in 0..4 {
            let disks = [("one", &one), ("two", &two)];
            points.push(back_up(&test.vault, machine, &disks).await.unwrap());
            one.change(10 + round, 2);
            one.resize([700_000, 1_000_000, 1_000_000, 1_000_000][usize::try_from(round).unwrap()]);
        }
        let anatomist = Anatomist::new(&test.path, &test.key_path);
        Self { test, machine, points, anatomist }
    }

    /// The same without its first points, and compacted.
    async fn worn() -> Self {
        let mut subject = Self::new().await;
        let vault = &subject.test.vault;
        let mut last = restore(vault, &subject.points[3], "one").await.unwrap();
        last.change(20, 150);
        let two = restore(vault, &subject.points[3], "two").await.unwrap();
        let newest = back_up(vault, subject.machine, &[("one", &last), ("two", &two)]).await.unwrap();
        for point in std::mem::replace(&mut subject.points, vec![newest]) {
            vault.decide_point(subject.machine, point.seq, AT_ONCE, "eva").await.unwrap();
        }
        let now = chrono::Utc::now();
        let options =
            CollectOptions { compaction: Compaction::All, least_gain: 1, ..CollectOptions::new(now) };
        let report = vault.collect(options, |_| {}).await.unwrap();
        assert!(report.compacted_segments > 0 && report.deleted_segments > 0, "{report:?}");
        subject
    }

    async fn verify(&self, depth: VerifyDepth) -> VerifyReport {
        let vault = self.test.reopen().await.unwrap();
        vault.verify(VerifyScope::Vault, depth, VerifyPace::Full, |_| {}).await.unwrap()
    }

    /// Which disks of which points do not restore.
    async fn broken(&self) -> BTreeSet<(u64, &'static str)> {
        let vault = self.test.reopen().await.unwrap();
        let listed: BTreeSet<u64> = match vault.points(self.machine).await {
            Ok(points) => points
                .into_iter()
                .filter_map(|status| match status {
                    holdfast_vault_engine::PointStatus::Ok(point) => Some(point.seq),
                    _ => None,
                })
                .collect(),
            Err(error) => panic!("{error}"),
        };
        let mut broken = BTreeSet::new();
        for point in &self.points {
            for disk in ["one", "two"] {
                if !listed.contains(&point.seq) || restore(&vault, point, disk).await.is_err() {
                    broken.insert((point.seq, disk));
                }
            }
        }
        broken
    }

    /// What is told is what does not restore; a look at the structure alone misses what is `is_data`. Answers that.
    async fn check(&self, what: &str, is_data: bool) -> bool {
        let broken = self.broken().await;
        let report = self.verify(VerifyDepth::ReadData).await;
        assert!(!report.findings.is_empty(), "{what} is not found");
        assert_eq!(told(&report), broken, "{what}: {:#?}", report.findings);
        let healthy = self.points.iter().map(|point| point.seq);
        let healthy = healthy.filter(|seq| !broken.iter().any(|(broken, _)| broken == seq)).collect();
        assert_eq!(sound(&report, self.machine), healthy, "{what}");
        let structure = self.verify(VerifyDepth::Structure).await;
        if is_data {
            assert!(structure.findings.is_empty(), "{what}: {structure:?}");
        } else {
            assert!(!structure.findings.is_empty(), "{what}");
            assert_eq!(told(&structure), broken, "{what}: {structure:?}");
        }
        is_data
    }

    fn objects(&self) -> Vec<String> {
        let all = self.test.objects().into_iter();
        // Those of points that are no more matter to nobody.
        let seq = |name: &str| name.rsplit('/').next().and_then(|file| file.get(..20)?.parse().ok());
        let is_point = |name: &str| {
            name.starts_with("points/") && self.points.iter().any(|point| Some(point.seq) == seq(name))
        };
        all.filter(|name| name.starts_with("seg/") || is_point(name)).collect()
    }
}

/// What findings say, in the same words.
fn told(report: &VerifyReport) -> BTreeSet<(u64, &'static str)> {
    let mut told = BTreeSet::new();
    for point in report.findings.iter().filter_map(|finding| finding.point.as_ref()) {
        match point.disk.as_deref() {
            Some("one") => drop(told.insert((point.seq, "one"))),
            Some("two") => drop(told.insert((point.seq, "two"))),
            Some(other) => panic!("{other}"),
            None => told.extend([(point.seq, "one"), (point.seq, "two")]),
        }
    }
    told
}

fn sound(report: &VerifyReport, machine: Uuid) -> BTreeSet<u64> {
    report.sound[&machine].keys().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_called_so() {
    let subject = Subject::new().await;
    let mut last = None;
    let vault = subject.test.reopen().await.unwrap();
    let report = vault
        .verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |progress| last = Some(progress))
        .await
        .unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!((report.machines, report.points), (1, 4));
    let segments = subject.objects().iter().filter(|name| name.starts_with("seg/")).count() as u64;
    assert_eq!((report.segments, report.read_segments), (segments, segments), "each once");
    let last = last.unwrap();
    assert_eq!((last.segments_done as u64, last.read_bytes), (segments, report.read_bytes));
    assert!(report.read_bytes > 400_000 && report.read_bytes < subject.test.size());
    assert_eq!(sound(&report, subject.machine), subject.points.iter().map(|point| point.seq).collect());

    let structure = subject.verify(VerifyDepth::Structure).await;
    assert!(structure.findings.is_empty() && structure.read_bytes == 0, "{structure:?}");
    let one = VerifyScope::Point(subject.machine, subject.points[1].seq);
    let report = vault.verify(one, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap();
    assert_eq!((report.points, report.findings.len()), (1, 0));
    assert!(report.segments < segments);
    let unknown = VerifyScope::Point(subject.machine, 999);
    let error = vault.verify(unknown, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("999"), "{error}");
}

/// Regions of every kind of every object, each harmed in some way, `HOLDFAST_HARMS` times (200): told is exactly what does not
/// restore any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_restore_is_told_and_nothing_else() {
    let harms: usize = std::env::var("HOLDFAST_HARMS").map_or(200, |count| count.parse().unwrap());
    let mut random = Random(7);
    let (mut cases, mut data_only) = (0, 0);
    let mut reached = BTreeSet::new();
    let (whole, worn) = (Subject::new().await, Subject::worn().await);
    while cases < harms {
        let subject = if random.below(2) == 0 { &whole } else { &worn };
        for name in subject.objects() {
            let path = subject.test.path.join(&name);
            let whole = std::fs::read(&path).unwrap();
            for (region, range) in subject.anatomist.regions(&name, &whole) {
                if !range.is_empty() {
                    let at = range.start + random.below(range.len());
                    let (harm, bytes) = harmed(&mut random, &whole, at, &range);
                    std::fs::write(&path, &bytes).unwrap();
                    let what = format!("{harm} at {at} ({region:?}) of {name}");
                    // A cut takes the directory away, whatever else it takes.
                    let is_data = name.starts_with("seg/")
                        && matches!(
                            region,
                            Region::DataCell
                                | Region::KeptCell
                                | Region::GoneCell
                                | Region::ZeroCell
                                | Region::Table
                        )
                        && harm != "cut";
                    reached.insert(region);
                    if region == Region::MetaCell && harm != "cut" && subject.broken().await.is_empty() {
                        // Of a delta that is no more, or a page of hashes: only one of them is looked at without the data.
                        assert!(!subject.verify(VerifyDepth::ReadData).await.findings.is_empty(), "{what}");
                    } else {
                        data_only += usize::from(subject.check(&what, is_data).await);
                    }
                    cases += 1;
                }
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }
    assert!(data_only > harms / 10, "{cases} cases, {data_only} of data");
    assert!(harms < 1000 || reached.contains(&Region::KeptCell), "{reached:?}");
    println!("{cases} cases, {data_only} of data");
}

/// One object with a region of it flipped in one bit, overwritten, or cut.
fn harmed(
    random: &mut Random,
    whole: &[u8],
    at: usize,
    region: &std::ops::Range<usize>,
) -> (&'static str, Vec<u8>) {
    let mut bytes = whole.to_vec();
    match random.below(4) {
        0 => {
            bytes.truncate(at);
            ("cut", bytes)
        }
        1 => {
            bytes[at] = !bytes[at];
            bytes[at..region.end].fill(!whole[at]);
            ("overwritten", bytes)
        }
        _ => {
            bytes[at] ^= 1 << random.below(8);
            ("flipped", bytes)
        }
    }
}

/// Objects that are cut off, gone, another's or older ones.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_another_is_told() {
    let subject = Subject::new().await;
    let names = subject.objects();
    for (index, name) in names.iter().enumerate() {
        let path = subject.test.path.join(name);
        let whole = std::fs::read(&path).unwrap();
        let other = std::fs::read(subject.test.path.join(&names[(index + 1) % names.len()])).unwrap();
        for (what, bytes) in
            [("cut off", Some(&whole[..whole.len() - 1])), ("gone", None), ("another", Some(&other[..]))]
        {
            match bytes {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let broken = subject.broken().await;
            for depth in [VerifyDepth::Structure, VerifyDepth::ReadData] {
                let report = subject.verify(depth).await;
                // The newest point has none after it that names it.
                let newest = name.ends_with(&format!("{:020}", subject.points[3].seq));
                if what == "gone" && newest && name.starts_with("points/") {
                    assert!(report.findings.is_empty() && report.points == 3, "{report:?}");
                } else {
                    assert_eq!(told(&report), broken, "{name} is {what}: {report:#?}");
                    assert!(!broken.is_empty(), "{name} is {what}");
                }
            }
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_to_the_byte() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut image = Image::noise(1, 100 * 4096 + 77);
    let first = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    for block in [7, 8, 100] {
        let end = (block * 4096 + 4096).min(image.0.len());
        image.0[block * 4096..end].fill(0x5a);
    }
    let second = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let third = back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap();
    let anatomist = Anatomist::new(&test.path, &test.key_path);
    let name = format!("seg/{machine}/{:020}/{:08}.0", second.seq, 0);
    let path = test.path.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    for (_, range) in
        anatomist.regions(&name, &bytes).into_iter().filter(|(region, _)| *region == Region::DataCell)
    {
        bytes[range.start] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let report = test
        .vault
        .verify(VerifyScope::Machine(machine), VerifyDepth::ReadData, VerifyPace::Full, |_| {})
        .await
        .unwrap();
    let damaged: Vec<DamagedPoint> =
        report.findings.iter().map(|finding| finding.point.clone().unwrap()).collect();
    let lost = |point: &Point| DamagedPoint {
        seq: point.seq,
        id: Some(point.id),
        disk: Some("sda".to_owned()),
        ranges: vec![7 * 4096..9 * 4096, 100 * 4096..100 * 4096 + 77],
    };
    assert_eq!(damaged, [lost(&second), lost(&third)]);
    assert_eq!(report.findings[0].machine_name, "web1");
    assert!(report.findings[0].reason.contains(&name), "{report:?}");
    assert_eq!(report.sound[&machine].keys().collect::<Vec<_>>(), [&first.seq]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_what_its_seed_says() {
    let subject = Subject::new().await;
    let all = subject.verify(VerifyDepth::ReadData).await.read_segments;
    let mut sizes = BTreeSet::new();
    for seed in 0..20 {
        let half = VerifyDepth::Sample { per_10_000: 5000, seed };
        let report = subject.verify(half).await;
        assert_eq!(report.read_segments, subject.verify(half).await.read_segments);
        assert!(report.findings.is_empty());
        sizes.insert(report.read_segments);
    }
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= all), "{sizes:?} of {all}");
    let none = VerifyDepth::Sample { per_10_000: 0, seed: 1 };
    assert_eq!(subject.verify(none).await.read_segments, 0);
    let every = VerifyDepth::Sample { per_10_000: 10_000, seed: 1 };
    assert_eq!(subject.verify(every).await.read_segments, all);
}

/// A point that is purged and swept while it is looked at is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_meanwhile_is_no_damage() {
    let test = TestVault::new().await;
    let machine = Uuid::new_v4();
    let mut points = Vec::new();
    for seed in 0..3 {
        let image = Image::noise(seed, 6 << 20);
        points.push(back_up(&test.vault, machine, &[("sda", &image)]).await.unwrap());
    }
    let other = test.reopen().await.unwrap();
    let (begun, wait) = std::sync::mpsc::channel();
    let first = points[0].seq;
    let collecting = tokio::spawn(async move {
        tokio::task::spawn_blocking(move || wait.recv().unwrap()).await.unwrap();
        let delete = Action::Delete { window_seconds: 0 };
        other.decide_point(machine, first, delete, "alice").await.unwrap();
        let mut freed = 0;
        for _ in 0..2 {
            freed +=
                other.collect(CollectOptions::new(chrono::Utc::now()), |_| {}).await.unwrap().deleted_bytes;
        }
        freed
    });
    let mut begun = Some(begun);
    let report = test
        .vault
        .verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |progress| {
            // After the points were listed, in the middle of reading.
            if progress.segments_done == 1
                && let Some(begun) = begun.take()
            {
                begun.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
        })
        .await
        .unwrap();
    assert!(collecting.await.unwrap() > 6 << 20);
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(good_points(&test.vault, machine).await.len(), 2);
}

/// Damage that no point needs: a leftover is nobody's, and is not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_not_looked_at() {
    let subject = Subject::new().await;
    let vault: &Vault = &subject.test.vault;
    let image = Image::noise(5, 100_000);
    let disks = [("one", &image)];
    let open = begin(vault, request(subject.machine, &disks)).await.unwrap();
    send_changes(&open, "one", &image).await.unwrap();
    open.flush().await.unwrap();
    let before = subject.verify(VerifyDepth::ReadData).await;
    let newest = subject.objects().into_iter().rfind(|name| name.starts_with("seg/")).unwrap();
    std::fs::write(subject.test.path.join(newest), b"damaged").unwrap();
    let after = subject.verify(VerifyDepth::ReadData).await;
    assert_eq!((after.read_segments, after.findings.len()), (before.read_segments, 0));
}
