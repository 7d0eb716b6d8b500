//! Verification says exactly what a restore would meet, before somebody needs it.

mod opening;
mod subject;

use std::collections::BTreeSet;

use holdfast_vault_engine::{
    Action, CollectOptions, DamagedPoint, Point, Vault, VerifyDepth, VerifyPace, VerifyScope,
};
use uuid::Uuid;

use opening::{Opened, harm_what_opens};
use subject::{Subject, sound, told};

use super::support::anatomy::{Anatomist, Region};
use super::support::image::Random;
use super::support::{Image, TestVault, back_up, begin, good_points, request, send_changes};
use crate::support::garbage::collect_garbage;

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
    assert_eq!(sound(&report), subject.points.iter().map(|point| (point.machine, point.seq)).collect());

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

/// Objects of every kind, and every region of them, each harmed in some way, until `HOLDFAST_HARMS` (200) harms were told: told is exactly
/// what does not restore any more, and what restores has the right bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_restore_is_told_and_nothing_else() {
    let harms: usize = std::env::var("HOLDFAST_HARMS").map_or(200, |count| count.parse().unwrap());
    let mut random = Random(7);
    let (mut tally, mut opened) = (Tally::default(), Opened::default());
    let (mut reached, mut exchanged) = (BTreeSet::new(), BTreeSet::new());
    let subjects = [Subject::new().await, Subject::worn().await, Subject::clones().await];
    // Each of them at least once.
    for round in 0.. {
        if round >= subjects.len() && tally.told >= harms {
            break;
        }
        let subject = subjects.get(round).unwrap_or_else(|| &subjects[random.below(subjects.len())]);
        let looked_at = subject.looked_at();
        for name in subject.all_objects() {
            let path = subject.test.path.join(&name);
            let whole = subject.read(&name);
            for (region, range) in subject.anatomist.regions(&name, &whole) {
                if range.is_empty() {
                    continue;
                }
                let at = range.start + random.below(range.len());
                let (harm, bytes) = harmed(&mut random, &whole, at, &range);
                std::fs::write(&path, &bytes).unwrap();
                let what = format!("{harm} at {at} ({region:?}) of {name}");
                if !looked_at.contains(&name) {
                    // `open/` and `gc/` restore nothing: what they make others do is looked at in `believed`.
                    subject.check_harmless(&what).await;
                    tally.harmless += 1;
                    continue;
                }
                reached.insert(region);
                // A cut takes the directory away, whatever else it takes.
                let is_data = name.starts_with("seg/") && IS_DATA.contains(&region) && harm != "cut";
                let is_meta = region == Region::MetaCell && harm != "cut";
                if is_meta && subject.restore_all().await.broken.is_empty() {
                    // Of a delta that is no more, or a page of hashes: only one of them is looked at without the data.
                    assert!(!subject.verify(VerifyDepth::ReadData).await.findings.is_empty(), "{what}");
                } else {
                    let named: &[&str] = if name.starts_with("points/") { &[&name] } else { &[] };
                    tally.data_only += usize::from(subject.check(&what, named, is_data).await);
                }
                tally.told += 1;
            }
            std::fs::write(&path, &whole).unwrap();
            exchanged.insert(exchange(subject, &name, &looked_at, &mut random, &mut tally).await);
        }
        harm_what_opens(subject, &mut random, &mut opened).await;
    }
    assert!(tally.data_only > harms / 10 && tally.harmless > 0, "{tally:?}");
    assert!(opened.refused > 0 && opened.as_before > 0, "{opened:?}");
    for region in [Region::KnownCell, Region::KeptCell, Region::GoneCell] {
        assert!(reached.contains(&region), "{reached:?}");
    }
    assert_eq!(exchanged, BTreeSet::from(["another", "exchanged", "gone", "older"]));
    println!("{tally:?}, {opened:?}");
}

/// Harms by what came of them.
#[derive(Debug, Default)]
struct Tally {
    /// Verification had to tell, and did.
    told: usize,
    /// Of those, what only reading the data shows.
    data_only: usize,
    /// No restore minds, or nobody can know.
    harmless: usize,
}

/// Regions that are read only with the data.
const IS_DATA: [Region; 6] = [
    Region::DataCell,
    Region::KnownCell,
    Region::KeptCell,
    Region::GoneCell,
    Region::ZeroCell,
    Region::Table,
];

/// One whole object gone, or another one in its place. Answers which.
async fn exchange(
    subject: &Subject,
    name: &str,
    looked_at: &BTreeSet<String>,
    random: &mut Random,
    tally: &mut Tally,
) -> &'static str {
    let whole = subject.read(name);
    let kind = name.split('/').next().unwrap();
    let others: Vec<String> = subject
        .all_objects()
        .into_iter()
        .filter(|other| other != name && other.split('/').next() == Some(kind))
        .collect();
    let older = subject.older(name);
    let how = match random.below(4) {
        0 if !others.is_empty() => "another",
        1 if !others.is_empty() => "exchanged",
        2 | 3 if !older.is_empty() => "older",
        _ => "gone",
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(subject.test.path.join(name), bytes).unwrap();
    let mut other = None;
    match how {
        "another" => write(name, &subject.read(&others[random.below(others.len())])),
        "exchanged" => {
            let chosen = &others[random.below(others.len())];
            let bytes = subject.read(chosen);
            write(name, &bytes);
            write(chosen, &whole);
            other = Some((chosen, bytes));
        }
        "older" => write(name, &older[random.below(older.len())]),
        _ => std::fs::remove_file(subject.test.path.join(name)).unwrap(),
    }
    let what = format!("{how}: {name}, {:?}", other.as_ref().map(|(other, _)| other));
    let is_event = kind == "points" && name.contains('.');
    let is_abort = subject.is_abort(name);
    // What comes last in a chain is known to nobody but the catalogue: so a decision is forgotten, or is the one of another life, and
    // the newest point is gone. Without its abort a backup is under way again.
    let is_unseen = match how {
        "gone" => subject.is_newest_point(name) || is_abort || is_event && subject.is_last_event(name),
        "older" => is_event || is_abort,
        _ => false,
    };
    let is_seen =
        looked_at.contains(name) || other.as_ref().is_some_and(|(other, _)| looked_at.contains(*other));
    if !is_seen || is_unseen && !was_purged(subject, name) {
        subject.check_harmless(&what).await;
        tally.harmless += 1;
    } else {
        // A point of another life is a good one, and so is one whose purge is forgotten: only what they need is not there.
        let is_told = looked_at.contains(name) && kind == "points" && !is_unseen && how != "older";
        let named = std::iter::once(name).chain(other.as_ref().map(|(other, _)| &***other));
        let named: Vec<&str> = named.filter(|_| is_told).collect();
        subject.check(&what, &named, false).await;
        tally.told += 1;
    }
    write(name, &whole);
    if let Some((other, bytes)) = other {
        write(other, &bytes);
    }
    how
}

/// Whether it is the event that purged a point: without it the point is listed again, and what it needs is gone.
fn was_purged(subject: &Subject, name: &str) -> bool {
    let is_point = |point: &Point| name.starts_with(&format!("points/{}/{:020}", point.machine, point.seq));
    name.contains('.') && !subject.points.iter().any(is_point)
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
            let broken = subject.restore_all().await.broken;
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
            freed += collect_garbage(&other, CollectOptions::new(chrono::Utc::now()), |_| {})
                .await
                .unwrap()
                .deleted_bytes;
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
