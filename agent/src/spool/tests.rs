use holdfast_proto::ids::StepId;
use holdfast_proto::v1::{Cancelled, SnapshotReleased, step_report::Outcome};

use super::*;

fn report(attempt: Attempt, sequence: i64) -> StepReport {
    StepReport {
        attempt: Some(attempt.to_wire()),
        sequence,
        outcome: Some(Outcome::SnapshotReleased(SnapshotReleased {})),
    }
}

fn attempt(number: i64) -> Attempt {
    Attempt { step: StepId::generate(), number }
}

#[test]
fn a_report_outlives_the_process_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (attempt(1), attempt(7));
    let spool = Spool::open(dir.path()).unwrap();
    spool.put(first, report(first, 3)).unwrap();
    spool.put(second, report(second, 1)).unwrap();
    drop(spool);

    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.pending().len(), 2);
    spool.acknowledge(first, 2).unwrap();
    assert!(spool.holds(first), "the acknowledgement of an earlier report was taken for this one");
    spool.acknowledge(first, 3).unwrap();
    spool.acknowledge(first, 3).unwrap();
    drop(spool);

    let spool = Spool::open(dir.path()).unwrap();
    assert_eq!(spool.pending(), vec![(second, report(second, 1))]);
}

#[test]
fn what_a_crash_leaves_of_a_write_is_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let whole = attempt(1);
    let spool = Spool::open(dir.path()).unwrap();
    spool.put(whole, report(whole, 1)).unwrap();
    let content = std::fs::read(spool.path(whole)).unwrap();
    std::fs::write(dir.path().join("x.report.tmp"), &content[..content.len() / 2]).unwrap();
    assert_eq!(Spool::open(dir.path()).unwrap().pending().len(), 1);
}

#[test]
fn every_flip_and_every_cut_is_noticed_and_set_aside() {
    let lost = attempt(1);
    let whole = encode(&StepReport {
        attempt: Some(lost.to_wire()),
        sequence: 1,
        outcome: Some(Outcome::Cancelled(Cancelled {})),
    });
    for position in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x40;
        assert!(decode(&flipped).is_none(), "flip at {position}");
        assert!(decode(&whole[..position]).is_none(), "cut at {position}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.report");
    std::fs::write(&path, &whole[1..]).unwrap();
    assert!(Spool::open(dir.path()).unwrap().pending().is_empty());
    assert!(!path.try_exists().unwrap());
    assert!(path.with_extension("damaged").try_exists().unwrap());
}
