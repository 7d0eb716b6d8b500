//! Disks in use: consistent at one instant, thawed whatever dies, and nothing left behind.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use holdfast_tests::mounted::Instant;
use holdfast_tests::{Agent, MountedDisks, Postgres, World, fault, is_root_or_skips};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// The agent, with the first disk cloned and both frozen.
const BETWEEN_CLONES: &str = "agent between two clones";

struct Rig {
    agent: Agent,
    disks: MountedDisks,
    world: World,
}

impl Rig {
    fn new(postgres: Postgres) -> Self {
        let world = World::start_with(postgres, &[]);
        let disks = MountedDisks::make(world.folder());
        let paths = disks.with_paths();
        let named: Vec<(&str, &Path)> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let agent = world.running_agent("web1", &named);
        Self { agent, disks, world }
    }

    /// Restores a point and looks at its instant: not before `since`.
    fn check(&self, point: &str, since: u64) -> Instant {
        let [first, second] = MountedDisks::NAMES.map(|name| {
            let file = self.world.path(&format!("restored-{name}"));
            let args = ["restore", point, "--disk", name, "--overwrite", "--to", file.to_str().unwrap()];
            let _ = self.world.cli.run(&args).succeeds();
            file
        });
        let instant = Instant::of(&first, &second);
        assert!(instant.second >= since, "{since} was acknowledged before the backup: {instant:?}");
        instant
    }
}

#[test]
fn disks_in_use_are_backed_up_at_one_instant() {
    if !is_root_or_skips("disks_in_use_are_backed_up_at_one_instant") {
        return;
    }
    let rig = Rig::new(Postgres::shared());
    rig.disks.add_file("first", "large", 8 * MIB, 1);
    let since = rig.disks.acknowledged();
    let full = rig.world.back_up("web1");
    rig.disks.assert_writable();
    rig.disks.add_file("second", "small", MIB, 2);
    let between = rig.disks.acknowledged();
    let incremental = rig.world.back_up("web1");
    rig.disks.assert_no_leftovers();
    let (then, now) = (rig.check(&full, since), rig.check(&incremental, between));
    assert!(then.first < now.second, "{then:?} {now:?}");
    let point = rig.world.point(&incremental);
    assert_eq!(point["consistency"], "file_system", "{point:#}");
    let sent: u64 =
        point["disks"].as_array().unwrap().iter().map(|disk| disk["sent_bytes"].as_u64().unwrap()).sum();
    assert!(sent < 3 * MIB, "{point:#}");
}

/// Each of the five dies twice. `HOLDFAST_FAULT_ROUNDS` gives more rounds, `HOLDFAST_FAULT_SEED` other ones.
#[test]
fn whatever_dies_the_disks_thaw_and_the_next_point_is_good() {
    if !is_root_or_skips("whatever_dies_the_disks_thaw_and_the_next_point_is_good") {
        return;
    }
    let (rounds, seed) = (fault::rounds(10), fault::seed());
    let mut rig = Rig::new(Postgres::own());
    let began = std::time::Instant::now();
    let first = rig.world.back_up("web1");
    let usual = u64::try_from(began.elapsed().as_millis()).unwrap();
    let _ = rig.check(&first, 0);
    for round in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed + round);
        let moment = Duration::from_millis(random.random_range(0..usual));
        let victim = [BETWEEN_CLONES, "agent", "agent and watchdog", "controller", "Postgres"]
            [usize::try_from(round % 5).unwrap()];
        rig.disks.add_file("first", &format!("round-{round}"), MIB, round);
        let since = rig.disks.acknowledged();
        if victim == BETWEEN_CLONES {
            rig.agent.stop();
            rig.agent.start_with("agent::disk_cloned=1*return");
        }
        let job = rig.world.start_backup("web1");
        if victim == BETWEEN_CLONES {
            rig.agent.wait_for_crash("agent::disk_cloned", PATIENCE);
        } else {
            std::thread::sleep(moment);
        }
        match victim {
            BETWEEN_CLONES | "agent" => {
                rig.agent.kill();
                // The watchdog thaws, not the next start.
                rig.disks.assert_writable();
                rig.agent.start();
            }
            "agent and watchdog" => {
                let _ = rig.disks.kill_holders("holdfast-agent");
                rig.agent.kill();
                let _ = rig.disks.kill_holders("holdfast-agent");
                rig.agent.start();
            }
            "controller" => {
                rig.world.controller.kill();
                rig.world.controller.start();
            }
            _ => {
                rig.world.postgres.crash();
                rig.world.postgres.restart();
            }
        }
        rig.disks.assert_writable();
        let mut ended = rig.world.wait_for_job(&job);
        eprintln!(
            "seed {}: {victim} after {moment:?}: {} {}",
            seed + round,
            ended["state"],
            ended["error"]["code"]
        );
        if ended["state"] == "failed" {
            let next = rig.world.start_backup("web1");
            ended = rig.world.wait_for_job(&next);
        }
        assert!(ended["state"].as_str().unwrap().starts_with("succeeded"), "{ended:#}");
        let _ = rig.check(ended["point"].as_str().unwrap(), since);
    }
    rig.disks.assert_no_leftovers();
    rig.world.assert_catalogue_is_the_vault();
    for point in rig.world.point_ids() {
        let _ = rig.check(&point, 0);
    }
}
