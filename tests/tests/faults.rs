//! Anything may be killed at any moment: the job goes on, or it ends failed and the next one succeeds; what was
//! acknowledged is not sent again; what is listed restores.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_tests::{Agent, Image, Postgres, World, fault, is_root_or_skips, wait};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Three segments, the last one not full; no multiple of a block.
const SIZE: u64 = 80 * MIB + 555;
const SEGMENT: u64 = 32 * MIB;
const CRASH_PATIENCE: Duration = Duration::from_secs(60);
/// With it, what is sent again is stored as a few bytes that stand for it, and nobody would see that it was.
const WITHOUT_DEDUPLICATION: &str = "[limits]\ndeduplication_mib = 0\n";

/// One machine that is backed up again and again while something dies.
struct Rig {
    image: Image,
    agent: Agent,
    world: World,
    round: u64,
    /// What the disk was, by point.
    kept: BTreeMap<String, PathBuf>,
    segment_bytes: u64,
}

impl Rig {
    fn new(postgres: Postgres) -> Self {
        let world = World::start_in(World::folder_with(WITHOUT_DEDUPLICATION), postgres, &[]);
        let image = Image::random(&world.path("disk.raw"), SIZE, 0);
        let agent = world.running_agent("web1", &[("data", &image.path)]);
        Self { image, agent, world, round: 0, kept: BTreeMap::new(), segment_bytes: 0 }
    }

    /// Changes the whole disk and starts a backup of it.
    fn begin_round(&mut self) -> String {
        self.change_disk();
        self.world.start_backup("web1")
    }

    fn change_disk(&mut self) {
        self.round += 1;
        self.image.fill(0, SIZE, self.round);
        self.segment_bytes = self.world.vault().segment_bytes();
    }

    /// Bytes that came to the vault since the disk was changed.
    fn sent(&self) -> u64 {
        self.world.vault().segment_bytes() - self.segment_bytes
    }

    /// Waits for the end, and looks at everything that must hold then. Returns the job. Segments that were on their way to the vault may
    /// come to it when the next attempt has taken over what was there: so much is sent again.
    fn end_round(&mut self, what: &str, job: &str, on_their_way: u64) -> Value {
        let mut ended = self.world.wait_for_job(job);
        let first_end = format!("{} {}", ended["state"], ended["error"]["code"]);
        match ended["state"].as_str() {
            Some("succeeded" | "succeeded_with_warnings") => {}
            Some("failed") => {
                let next = self.world.start_backup("web1");
                ended = self.world.wait_for_job(&next);
                assert_eq!(ended["state"], "succeeded", "{what}: the next backup: {ended:#}");
            }
            _ => panic!("{what}: {ended:#}"),
        }
        // Every acknowledged byte is in a segment, once for each time that it was sent.
        let sent = self.sent();
        let limit = SIZE * 102 / 100 + SEGMENT * on_their_way;
        let attempt = &ended["steps"][1]["attempt"];
        eprintln!("{what}: {first_end}, attempt {attempt}, {} MiB stored of {} MiB", sent / MIB, SIZE / MIB);
        assert!(
            sent <= limit,
            "{what}: {sent} bytes were stored of {SIZE}: acknowledged ones were sent again"
        );
        self.keep_copy();
        let point = ended["point"].as_str().unwrap();
        self.world.assert_restores(point, "data", &self.image.path);
        self.world.assert_catalogue_is_the_vault();
        ended
    }

    /// Every point that is new was made of the disk as it is now.
    fn keep_copy(&mut self) {
        let copy = self.world.path(&format!("round-{}.raw", self.round));
        self.image.copy(&copy);
        for point in self.world.point_ids() {
            self.kept.entry(point).or_insert_with(|| copy.clone());
        }
    }

    /// In the end, each point is still what it was.
    fn end(&self) {
        self.world.assert_catalogue_is_the_vault();
        assert_eq!(self.world.point_ids(), self.kept.keys().cloned().collect());
        for (point, copy) in &self.kept {
            self.world.assert_restores(point, "data", copy);
            self.world.assert_vault_restores(point, "data", copy);
        }
        let marker = "SELECT count(*) FROM machine_slots WHERE active_job IS NOT NULL";
        assert_eq!(self.world.database.number(marker), 0, "the machine is still marked as busy");
    }
}

/// `NAME` dies at the first time, `NAME=N*off` after N times.
fn armed(failpoint: &str) -> String {
    match failpoint.split_once('=') {
        Some(_) => format!("{failpoint}->1*return"),
        None => format!("{failpoint}=1*return"),
    }
}

fn controller_dies_at(failpoints: &[&str]) {
    let mut rig = Rig::new(Postgres::shared());
    for failpoint in failpoints {
        rig.world.controller.stop();
        rig.world.controller.start_with(&armed(failpoint));
        // It may die before it answers: the client asks again until it is back.
        let cli = rig.world.cli.clone();
        rig.change_disk();
        let asked = std::thread::spawn(move || cli.json(&["backup", "web1"]));
        rig.world.controller.wait_for_crash(failpoint, CRASH_PATIENCE);
        rig.world.controller.start();
        let job = asked.join().unwrap();
        // A dead gateway has nothing on its way.
        rig.end_round(failpoint, job["id"].as_str().unwrap(), 0);
    }
    rig.end();
}

fn agent_dies_at(failpoints: &[&str]) {
    let mut rig = Rig::new(Postgres::shared());
    for failpoint in failpoints {
        rig.agent.stop();
        rig.agent.start_with(&armed(failpoint));
        let job = rig.begin_round();
        rig.agent.wait_for_crash(failpoint, CRASH_PATIENCE);
        rig.agent.start();
        rig.end_round(failpoint, &job, 1);
    }
    rig.end();
}

#[test]
fn the_gateway_dies_while_it_receives() {
    controller_dies_at(&["gateway::opened", "engine::segment_durable"]);
}

#[test]
fn the_gateway_dies_while_it_commits() {
    controller_dies_at(&[
        "engine::delta_written",
        "gateway::prepared",
        "gateway::commit_begun",
        "gateway::point_created",
        "gateway::point_recorded",
    ]);
}

#[test]
fn the_gateway_dies_while_it_restores() {
    let mut rig = Rig::new(Postgres::shared());
    let point = rig.world.back_up("web1");
    let (file, partial) = (rig.world.path("restored.raw"), rig.world.path("restored.raw.partial"));
    let arguments = ["restore", &point, "--disk", "data", "--to", file.to_str().unwrap()];
    for failpoint in ["gateway::restore_begun", "gateway::window_read", "gateway::window_read=1*off"] {
        rig.world.controller.stop();
        rig.world.controller.start_with(&armed(failpoint));
        let answer = rig.world.cli.run(&arguments);
        rig.world.controller.wait_for_crash(failpoint, CRASH_PATIENCE);
        assert_ne!(answer.code, 0, "{failpoint}");
        for left in [&file, &partial] {
            assert!(!left.try_exists().unwrap(), "{failpoint}: half a disk was left behind");
        }
        rig.world.controller.start();
        let _ = rig.world.cli.run(&arguments).succeeds();
        assert!(fs::read(&file).unwrap() == fs::read(&rig.image.path).unwrap(), "{failpoint}");
        fs::remove_file(&file).unwrap();
    }
    rig.world.assert_catalogue_is_the_vault();
}

#[test]
fn the_controller_dies_when_it_dispatched() {
    controller_dies_at(&[
        "controller::dispatched",
        "controller::dispatched=1*off",
        "controller::dispatched=2*off",
    ]);
}

#[test]
fn the_controller_dies_when_it_recorded_a_report() {
    let recorded = "controller::report_recorded";
    controller_dies_at(&[recorded, &format!("{recorded}=1*off"), &format!("{recorded}=2*off")]);
}

#[test]
fn the_agent_dies_before_it_commits() {
    agent_dies_at(&[
        "agent::snapshot_taken",
        "agent::transfer_opened",
        "agent::frame_acked",
        // When two segments are acknowledged: more than may be sent again.
        "agent::frame_acked=20*off",
        "agent::before_commit",
    ]);
}

#[test]
fn the_agent_dies_after_it_committed() {
    agent_dies_at(&["agent::committed", "agent::report_spooled", "agent::snapshot_released"]);
}

/// `HOLDFAST_FAULT_ROUNDS` gives more rounds, `HOLDFAST_FAULT_SEED` other ones.
#[test]
fn anything_dies_at_any_moment() {
    let (rounds, seed) = (fault::rounds(6), fault::seed());
    let mut rig = Rig::new(Postgres::own());
    rig.agent.stop();
    // So slow that something dies in the middle of it.
    rig.agent.set_compression_level(12);
    rig.agent.start();
    rig.world.wait_for_machine("web1", "online");
    let began = Instant::now();
    let job = rig.begin_round();
    let _ = rig.world.wait_for_job(&job);
    let usual = u64::try_from(began.elapsed().as_millis()).unwrap();
    rig.end_round("undisturbed", &job, 0);
    let mut in_transfer = 0;
    for round in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed + round);
        let moment = Duration::from_millis(random.random_range(0..usual));
        let away = Duration::from_millis(random.random_range(0..2000));
        let victim = ["agent", "controller", "Postgres"][usize::try_from(round % 3).unwrap()];
        let job = rig.begin_round();
        // Every other one in the middle of the transfer, unless that is over sooner.
        let moment = if round % 2 == 0 {
            moment
        } else {
            wait::until("a first segment", CRASH_PATIENCE, || (rig.sent() > 0).then_some(()));
            moment / 16
        };
        std::thread::sleep(moment);
        let sent = rig.sent();
        in_transfer += u64::from(0 < sent && sent < SIZE);
        match victim {
            "agent" => {
                rig.agent.kill();
                std::thread::sleep(away);
                rig.agent.start();
            }
            "controller" => {
                rig.world.controller.kill();
                std::thread::sleep(away);
                rig.world.controller.start();
            }
            _ => {
                rig.world.postgres.crash();
                std::thread::sleep(away);
                rig.world.postgres.restart();
            }
        }
        let what =
            format!("seed {}: {victim} after {moment:?} ({} MiB) for {away:?}", seed + round, sent / MIB);
        rig.end_round(&what, &job, u64::from(victim != "controller"));
    }
    eprintln!("{in_transfer} of {rounds} died in the middle of the transfer");
    // The first round dies wherever it happens to be.
    assert!(rounds < 2 || in_transfer > 0, "nothing died in the middle of the transfer");
    rig.end();
}

/// Points are deleted, collected and restored while a backup runs and something dies.
#[test]
fn an_operator_goes_on_while_anything_dies() {
    const SMALL: u64 = 12 * MIB + 555;
    let (rounds, seed) = (fault::rounds(4), fault::seed());
    let mut world = World::start_with(Postgres::own(), &[("window", "1s")]);
    let image = Image::random(&world.path("disk.raw"), SMALL, 0);
    let mut agent = world.running_agent("web1", &[("data", &image.path)]);
    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    let copied = |image: &Image, number: usize, world: &World| {
        let copy = world.path(&format!("copy-{number}.raw"));
        image.copy(&copy);
        copy
    };
    for number in 0..3 {
        image.fill(number * 4 * MIB, 4 * MIB, 100 + number);
        let point = world.back_up("web1");
        kept.push((point, copied(&image, kept.len(), &world)));
    }
    for round in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed + round);
        let moment = Duration::from_millis(random.random_range(0..2500));
        let away = Duration::from_millis(random.random_range(0..1500));
        let victim = ["controller", "Postgres", "agent"][usize::try_from(round % 3).unwrap()];
        let what = format!("seed {}: {victim} after {moment:?} for {away:?}", seed + round);
        eprintln!("{what}");
        image.fill(random.random_range(0..8) * MIB, 4 * MIB, 200 + round);
        let copy = copied(&image, 3 + usize::try_from(round).unwrap(), &world);
        let (deleted, _) = kept.remove(random.random_range(0..kept.len() - 1));
        let (restored, before) = kept[random.random_range(0..kept.len())].clone();
        let file = world.path("beside.raw");
        let job = world.start_backup("web1");
        let delete = world.cli.spawn(&["point", "delete", &deleted]);
        let restore =
            world.cli.spawn(&["restore", &restored, "--disk", "data", "--to", file.to_str().unwrap()]);
        let collect = world.cli.spawn(&["vault", "gc", "--compact-all"]);
        std::thread::sleep(moment);
        match victim {
            "agent" => {
                agent.kill();
                std::thread::sleep(away);
                agent.start();
            }
            "controller" => {
                world.controller.kill();
                std::thread::sleep(away);
                world.controller.start();
            }
            _ => {
                world.postgres.crash();
                std::thread::sleep(away);
                world.postgres.restart();
            }
        }
        // Whatever they say, it is true; what failed can be asked for again.
        let _ = (delete.finish(), collect.finish());
        let restore = restore.finish();
        if restore.code == 0 {
            assert!(fs::read(&file).unwrap() == fs::read(&before).unwrap(), "{what}");
            fs::remove_file(&file).unwrap();
        }
        assert!(!file.try_exists().unwrap(), "{what}: there is a file, but {restore:?}");
        let gone = |answer: &holdfast_tests::Answer| answer.stderr.contains("(point_not_found)");
        let again = world.cli.run(&["point", "delete", &deleted]);
        assert!(again.code == 0 || gone(&again), "{what}: {again:?}");
        let mut ended = world.wait_for_job(&job);
        if ended["state"] == "failed" {
            let next = world.start_backup("web1");
            ended = world.wait_for_job(&next);
        }
        assert_eq!(ended["state"], "succeeded", "{what}: {ended:#}");
        kept.push((ended["point"].as_str().unwrap().to_owned(), copy));
        world.assert_catalogue_is_the_vault();
        let _ = world.cli.run(&["vault", "check"]).succeeds();
    }
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..2 {
        let _ = world.cli.run(&["vault", "gc", "--compact-all"]).succeeds();
        std::thread::sleep(Duration::from_millis(1100));
    }
    let _ = world.cli.run(&["vault", "check", "--read-data"]).succeeds();
    let listed = world.point_ids();
    for (point, copy) in &kept {
        assert!(listed.contains(point), "{point} is not listed");
        world.assert_restores(point, "data", copy);
        world.assert_vault_restores(point, "data", copy);
    }
}

#[test]
fn a_late_attempt_is_fenced() {
    let mut rig = Rig::new(Postgres::shared());
    rig.agent.stop();
    // Everything is in the vault by then, and it commits late.
    rig.agent.start_with("agent::before_commit=sleep(4000)");
    rig.world.wait_for_machine("web1", "online");
    let job = rig.begin_round();
    wait::until("some bytes to be stored", CRASH_PATIENCE, || {
        (rig.world.vault().segment_bytes() > 8 * MIB).then_some(())
    });
    rig.agent.freeze();
    wait::until("the attempt to be lost", CRASH_PATIENCE, || {
        let lost = "SELECT count(*) FROM step_attempts WHERE attempt = 1 AND outcome = 'lost'";
        (rig.world.database.number(lost) == 1).then_some(())
    });
    rig.agent.thaw();
    let ended = rig.end_round("a frozen agent", &job, 1);
    assert!(ended["steps"][1]["attempt"].as_i64() >= Some(2), "{ended:#}");
    assert_eq!(rig.world.point_ids().len(), 1);
    rig.end();
}

/// A filesystem of its own, gone with the test.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "holdfast-test"], &path);
        Self(path)
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], &self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], path: &Path) {
    assert!(Command::new("mount").args(args).arg(path).status().unwrap().success());
}

#[test]
fn a_full_vault_fails_cleanly_and_works_later() {
    if !is_root_or_skips("a_full_vault_fails_cleanly_and_works_later") {
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    let vault = Mount::tmpfs(outer.path().join("vault"), "40m");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("controller")).unwrap();
    std::os::unix::fs::symlink(&vault.0, folder.path().join("controller/vault")).unwrap();
    let world = World::start_in(folder, Postgres::shared(), &[]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);

    let job = world.start_backup("web1");
    let failed = world.wait_for_job(&job);
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&"failed".into(), &"vault_full".into()),
        "{failed:#}"
    );
    assert!(!failed["error"]["action"].as_str().unwrap().is_empty(), "{failed:#}");
    assert!(world.point_ids().is_empty() && world.vault().point_ids().is_empty());

    vault.resize("400m");
    let point = world.back_up("web1");
    world.assert_restores(&point, "data", &image.path);
    world.assert_vault_restores(&point, "data", &image.path);
    world.assert_catalogue_is_the_vault();
    drop(world);
}
