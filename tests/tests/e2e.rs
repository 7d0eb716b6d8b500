//! One real disk goes through the whole system and comes back byte for byte.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::image::{BLOCK, Image, changed_blocks};
use holdfast_tests::{World, wait};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const EXT4: u64 = 512 * MIB;
/// No multiple of a block.
const SIZE: u64 = EXT4 + 1234;

/// A point and what the disk was when it was made.
struct Kept {
    point: String,
    copy: PathBuf,
}

struct Chain<'a> {
    world: &'a World,
    image: &'a Image,
    kept: Vec<Kept>,
}

impl Chain<'_> {
    /// Backs up, keeps a copy, and gives the disk's numbers in the point and how many blocks truly changed.
    fn back_up(&mut self, name: &str) -> (Value, u64) {
        let copy = self.world.path(&format!("{name}.raw"));
        self.image.copy(&copy);
        let point = self.world.back_up("web1");
        let changed = match self.kept.last() {
            Some(last) => changed_blocks(&last.copy, &copy),
            None => 0,
        };
        let shown = self.world.point(&point);
        assert_eq!(shown["disks"].as_array().unwrap().len(), 1, "{shown}");
        let disk = shown["disks"][0].clone();
        assert_eq!(disk["size_bytes"], fs::metadata(&copy).unwrap().len(), "{name}: {disk}");
        eprintln!("{name}: {changed} blocks changed, {disk}");
        self.kept.push(Kept { point, copy });
        (disk, changed)
    }
}

fn bytes(disk: &Value, key: &str) -> u64 {
    disk[key].as_u64().unwrap_or_else(|| panic!("{key} in {disk}"))
}

/// At most a tenth and 64 KiB more than what truly changed.
fn assert_lean(disk: &Value, changed: u64) {
    let limit = changed * BLOCK * 11 / 10 + 64 * 1024;
    assert!(bytes(disk, "sent_bytes") <= limit, "{changed} blocks changed: {disk}");
    assert_eq!(bytes(disk, "changed_bytes").div_ceil(BLOCK), changed, "{disk}");
}

#[test]
fn a_disk_comes_back_byte_for_byte() {
    let world = World::start();
    let image = Image::with_ext4(&world.path("disk.raw"), EXT4, SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    check_machine(&world.machine("web1"));

    let mut chain = Chain { world: &world, image: &image, kept: Vec::new() };
    let (full, _) = chain.back_up("full");
    assert!(bytes(&full, "sent_bytes") < SIZE / 2, "zeros and text went over the wire: {full}");

    image.change_files(8 * MIB, 2);
    let (changed, blocks) = chain.back_up("changed");
    assert!(blocks >= 8 * MIB / BLOCK);
    assert_lean(&changed, blocks);

    image.scatter(100, 3);
    let (incremental, blocks) = chain.back_up("incremental");
    assert!((90..=100).contains(&blocks));
    assert_lean(&incremental, blocks);

    let (unchanged, blocks) = chain.back_up("unchanged");
    assert_eq!((blocks, bytes(&unchanged, "sent_bytes"), bytes(&unchanged, "changed_bytes")), (0, 0, 0));
    assert!(bytes(&unchanged, "stored_bytes") < 64 * 1024, "{unchanged}");

    image.resize(SIZE + 48 * MIB + 4097);
    image.fill(SIZE + 24 * MIB, 8 * MIB, 4);
    let (grown, blocks) = chain.back_up("grown");
    assert!(blocks >= 8 * MIB / BLOCK);
    assert!(bytes(&grown, "sent_bytes") <= blocks * BLOCK * 11 / 10 + 64 * 1024, "{blocks}: {grown}");

    image.resize(300 * MIB + 777);
    let (shrunk, _) = chain.back_up("shrunk");
    assert!(bytes(&shrunk, "sent_bytes") <= 64 * 1024, "{shrunk}");

    for kept in &chain.kept {
        world.assert_restores(&kept.point, "data", &kept.copy);
        world.assert_vault_restores(&kept.point, "data", &kept.copy);
    }
    world.assert_catalogue_is_the_vault();
    let last = chain.kept.last().unwrap();
    assert_eq!(world.point("web1@latest")["id"], last.point.as_str());
    check_contract(&world, &chain.kept[0].point);
}

/// The keys that scripts rely on, with their types.
fn check_contract(world: &World, point: &str) {
    let points = world.cli.json(&["point", "list", "web1"]);
    assert_eq!(points.as_array().unwrap().len(), 6);
    let newest: Vec<&str> =
        points.as_array().unwrap().iter().map(|point| point["created_at"].as_str().unwrap()).collect();
    assert!(newest.is_sorted_by(|a, b| a >= b), "{newest:?}");
    let point = world.point(point);
    assert_eq!((&point["machine"], &point["state"]), (&"web1".into(), &"listed".into()));
    let machine_id = world.machine("web1")["id"].clone();
    assert_eq!(point["machine_id"], machine_id);
    assert_eq!(point["consistency"], "file_system");
    check_time(&point["created_at"]);
    for key in ["size_bytes", "read_bytes", "changed_bytes", "sent_bytes", "stored_bytes"] {
        assert!(point["disks"][0][key].is_u64(), "{key}: {point}");
    }
    assert_eq!(point["disks"][0]["name"], "data");

    let jobs = world.cli.json(&["job", "list", "--machine", "web1", "--state", "succeeded", "--limit", "4"]);
    assert_eq!(jobs.as_array().unwrap().len(), 4);
    let job = world.job(jobs[0]["id"].as_str().unwrap());
    assert_eq!(
        (&job["kind"], &job["machine"], &job["state"]),
        (&"backup".into(), &"web1".into(), &"succeeded".into())
    );
    assert_eq!(job["machine_id"], machine_id);
    assert!(job.as_object().unwrap().contains_key("error") && job["error"].is_null(), "{job}");
    let kinds: Vec<&str> =
        job["steps"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["take_snapshot", "transfer_data", "release_snapshot"]);
    assert!(
        job["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done" && step["attempt"] == 1),
        "{job}"
    );

    let status = world.cli.json(&["status"]);
    assert_eq!((&status["machines"]["online"], &status["points"]), (&1.into(), &6.into()), "{status}");
    assert_eq!(world.cli.json(&["machine", "list"]).as_array().unwrap().len(), 1);
    let yaml = world.cli.run(&["point", "list", "-o", "yaml"]).succeeds().stdout;
    assert!(yaml.contains("sent_bytes: 0"), "{yaml}");
    let table = world.cli.run(&["point", "list"]).succeeds().stdout;
    assert_eq!(table.lines().count(), 7, "{table}");
}

fn check_machine(machine: &Value) {
    assert_eq!((&machine["name"], &machine["state"]), (&"web1".into(), &"online".into()), "{machine}");
    assert_eq!(machine["disks"], serde_json::json!([{"name": "data", "size_bytes": SIZE}]));
    check_time(&machine["enrolled_at"]);
}

fn check_time(time: &Value) {
    let text = time.as_str().unwrap_or_else(|| panic!("{time}"));
    assert!(text.len() >= 20 && text.as_bytes()[10] == b'T' && text.ends_with('Z'), "{text}");
}

/// A world with one machine whose backup takes some seconds, or until the file is removed that stands for `HOLD`.
fn slow_world(controller: &str, agent: &str) -> (World, holdfast_tests::Agent, Image) {
    let mut world = World::start();
    if !controller.is_empty() {
        let hold = world.path("hold");
        std::fs::write(&hold, "").unwrap();
        world.controller.stop();
        world.controller.start_with(&controller.replace("HOLD", hold.to_str().unwrap()));
    }
    let image = Image::random(&world.path("disk.raw"), 48 * MIB, 5);
    let mut machine = world.enrolled_agent("web1", &[("data", &image.path)]);
    machine.start_with(agent);
    world.wait_for_machine("web1", "online");
    (world, machine, image)
}

fn wait_until_held(world: &World) {
    wait::until("the place that is held", std::time::Duration::from_secs(60), || {
        world.path("hold.reached").try_exists().unwrap().then_some(())
    });
}

fn wait_for_step(world: &World, job: &str, kind: &str) {
    wait::until(&format!("{kind} to run"), std::time::Duration::from_secs(30), || {
        let job = world.job(job);
        assert!(job["ended_at"].is_null(), "it ended before: {job:#}");
        let found = job["steps"]
            .as_array()
            .unwrap()
            .iter()
            .any(|step| step["kind"] == kind && step["state"] == "running");
        found.then_some(())
    });
}

/// A cancelled job left nothing: no point, no lock on the disk, and the next backup is as good as ever.
fn assert_cancelled_cleanly(world: &World, agent: &mut holdfast_tests::Agent, job: &str, disk: &Path) {
    let ended = world.wait_for_job(job);
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    assert!(ended["point"].is_null(), "{ended:#}");
    assert!(world.point_ids().is_empty());
    agent.stop();
    agent.start();
    world.wait_for_machine("web1", "online");
    let point = world.back_up("web1");
    world.assert_restores(&point, "data", disk);
    world.assert_catalogue_is_the_vault();
}

fn cancel(world: &World, job: &str) {
    let _ = world.cli.run(&["job", "cancel", job]).succeeds();
}

#[test]
fn cancelled_while_queued() {
    let (world, mut agent, image) = slow_world("", "");
    agent.stop();
    world.wait_for_machine("web1", "offline");
    let job = world.start_backup("web1");
    assert_eq!(world.job(&job)["state"], "queued");
    cancel(&world, &job);
    agent.start();
    assert_cancelled_cleanly(&world, &mut agent, &job, &image.path);
    cancel(&world, &job);
}

#[test]
fn cancelled_during_the_snapshot() {
    let (world, mut agent, image) = slow_world("", "agent::snapshot_taken=1*sleep(3000)");
    let job = world.start_backup("web1");
    wait::until("the snapshot", std::time::Duration::from_secs(30), || {
        let step = world.job(&job)["steps"][0].clone();
        matches!(step["state"].as_str(), Some("dispatched" | "running")).then_some(())
    });
    cancel(&world, &job);
    assert_cancelled_cleanly(&world, &mut agent, &job, &image.path);
}

#[test]
fn cancelled_during_the_transfer() {
    let (world, mut agent, image) = slow_world("", "agent::frame_acked=sleep(300)");
    let job = world.start_backup("web1");
    wait_for_step(&world, &job, "transfer_data");
    cancel(&world, &job);
    assert_cancelled_cleanly(&world, &mut agent, &job, &image.path);
}

#[test]
fn cancelled_before_the_commit() {
    let (world, mut agent, image) = slow_world("gateway::prepared=1*return(HOLD)", "");
    let job = world.start_backup("web1");
    wait_until_held(&world);
    cancel(&world, &job);
    std::fs::remove_file(world.path("hold")).unwrap();
    assert_cancelled_cleanly(&world, &mut agent, &job, &image.path);
}

#[test]
fn a_commit_that_began_is_not_cancelled() {
    let (world, _agent, image) = slow_world("gateway::commit_begun=1*return(HOLD)", "");
    let job = world.start_backup("web1");
    wait_until_held(&world);
    cancel(&world, &job);
    std::fs::remove_file(world.path("hold")).unwrap();
    let ended = world.wait_for_job(&job);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    world.assert_restores(ended["point"].as_str().unwrap(), "data", &image.path);
    world.assert_catalogue_is_the_vault();
    let answer = world.cli.run(&["job", "cancel", &job]);
    let _ = answer.fails(1, "job_ended");
}
