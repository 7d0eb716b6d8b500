//! A distributed server of which a part dies.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_vault_engine::{Point, Vault, chain};
use uuid::Uuid;

use super::support::s3::{S3Vault, Server, ceph};
use super::support::{Image, back_up, good_points, restore_disk};

const MIB: usize = 1 << 20;

/// A commit of which nothing is heard for so long is another's to conclude.
const MAY_TAKE: Duration = Duration::from_secs(60);

/// A point with what it must hold.
type Made = (Point, Image);

#[tokio::test(flavor = "multi_thread")]
async fn s3_nothing_acknowledged_goes_with_a_storage_daemon() {
    let Some(ceph) = ceph().filter(|dir| dir.join("run/osd.2.pid").try_exists().unwrap()) else {
        // Also with `CI` set: only `tests/run s3` starts one.
        eprintln!("SKIPPED: no Ceph of three storage daemons (tests/run s3 starts one)");
        return;
    };
    let server = Server::start().unwrap();
    let test = S3Vault::new(server.place()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|seed| tokio::spawn(keep_backing_up(test.vault.clone(), seed, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_secs(8)).await;
    run(&ceph, "kill");
    tokio::time::sleep(Duration::from_secs(25)).await;
    stop.store(true, Ordering::SeqCst);
    let mut made = Vec::new();
    let (mut failed, mut longest) = (Vec::new(), Duration::ZERO);
    for writer in writers {
        let (machine, points, failures, slowest) = writer.await.unwrap();
        assert!(points.len() > 2, "only {} points of a machine: {failures:#?}", points.len());
        made.push((machine, points));
        failed.extend(failures);
        longest = longest.max(slowest);
    }
    let count: usize = made.iter().map(|(_, points)| points.len()).sum();
    println!("{count} points, {} backups failed, the longest took {longest:?}", failed.len());
    // Two of three daemons are enough, and what is refused until they know that one is dead is tried again for longer.
    assert!(failed.is_empty(), "{} of {} backups failed: {failed:#?}", failed.len(), failed.len() + count);
    assert!(longest < MAY_TAKE, "the longest backup took {longest:?}");
    check(&test.reopen().await, &made).await;
    run(&ceph, "revive");
    check(&test.reopen().await, &made).await;
}

/// Everything that was acknowledged is listed and comes back.
async fn check(vault: &Vault, made: &[(Uuid, Vec<Made>)]) {
    for (machine, points) in made {
        let listed = good_points(vault, *machine).await;
        for (point, truth) in points {
            assert!(listed.contains(point), "point {} is lost", point.seq);
            restore_disk(vault, point, "sda", truth).await;
        }
    }
}

async fn keep_backing_up(
    vault: Vault,
    seed: u64,
    stop: Arc<AtomicBool>,
) -> (Uuid, Vec<Made>, Vec<String>, Duration) {
    let machine = Uuid::new_v4();
    let mut image = Image::noise(seed, 4 * MIB);
    let (mut made, mut failed, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        image.change(seed * 1000 + round, 100);
        let started = Instant::now();
        match back_up(&vault, machine, &[("sda", &image)]).await {
            Ok(point) => made.push((point, image.clone())),
            Err(error) => {
                failed.push(format!("round {round}, after {:?}: {}", started.elapsed(), chain(&error)));
            }
        }
        slowest = slowest.max(started.elapsed());
    }
    (machine, made, failed, slowest)
}

fn run(ceph: &Path, command: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/s3/ceph");
    let status = Command::new(script).arg(command).arg(ceph).arg("1").status().unwrap();
    assert!(status.success(), "{command}: {status}");
}
