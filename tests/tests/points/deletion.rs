//! Points that nobody wants any more: deleted and taken back, locked, not kept by their policy, purged; what they alone needed
//! is freed, and everything else restores.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_proto::v1::point_service_client::PointServiceClient;
use holdfast_proto::v1::{DeletePointRequest, PointState};
use holdfast_tests::{Image, Postgres, World, wait};
use serde_json::Value;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB + 555;
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine whose disk is another one in each point.
struct Rig {
    world: World,
    _agent: holdfast_tests::Agent,
    /// Points, oldest first, and what the disk was.
    image: Image,
    points: Vec<(String, PathBuf)>,
}

impl Rig {
    fn with_points(timing: &[(&str, &str)], count: u64) -> Self {
        let world = World::start_with(Postgres::shared(), timing);
        let image = Image::random(&world.path("disk.raw"), SIZE, 0);
        let agent = world.running_agent("web1", &[("data", &image.path)]);
        let mut points = Vec::new();
        for round in 0..count {
            image.fill(0, SIZE, round + 1);
            let copy = world.path(&format!("{round}.raw"));
            image.copy(&copy);
            points.push((world.back_up("web1"), copy));
        }
        Self { world, image, _agent: agent, points }
    }

    fn id(&self, index: usize) -> &str {
        &self.points[index].0
    }

    fn listed(&self, args: &[&str]) -> Vec<String> {
        let points = self.world.cli.json(&[&["point", "list", "web1"], args].concat());
        let mut ids: Vec<_> =
            points.as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect();
        ids.reverse();
        ids
    }

    fn ids(&self, indices: &[usize]) -> Vec<String> {
        indices.iter().map(|index| self.id(*index).to_owned()).collect()
    }

    fn collect(&self, args: &[&str]) -> Value {
        self.world.cli.json(&[&["vault", "gc"], args].concat())
    }

    fn assert_restore(&self, indices: &[usize]) {
        for index in indices {
            let (id, copy) = &self.points[*index];
            self.world.assert_restores(id, "data", copy);
            self.world.assert_vault_restores(id, "data", copy);
        }
    }

    /// Deletes a point and lets its window begin and end.
    fn delete_and_wait(&self, index: usize, window: Duration) {
        let _ = self.world.cli.run(&["point", "delete", self.id(index)]).succeeds();
        let first = self.collect(&[]);
        assert_eq!(first["purged_points"], 0, "{first}");
        std::thread::sleep(window);
    }
}

#[test]
fn a_deleted_point_can_be_taken_back() {
    let rig = Rig::with_points(&[], 2);
    let world = &rig.world;
    let (first, second) = (rig.id(0), rig.id(1));
    let viewer = world.cli_with_key(world.controller.create_api_key("watcher", "viewer"));
    for args in [
        &["point", "delete", first][..],
        &["point", "undelete", first],
        &["point", "lock", first, "--for", "1h"],
        &["point", "unlock", first],
        &["vault", "gc"],
    ] {
        let _ = viewer.run(args).fails(1, "role_too_low");
    }
    let _ = world
        .cli
        .run(&["point", "undelete", "00000000-0000-0000-0000-000000000000"])
        .fails(1, "point_not_found");

    let deleted = &world.cli.json(&["point", "delete", "web1@latest"])[0];
    assert_eq!((&deleted["id"], &deleted["state"]), (&second.into(), &"soft_deleted".into()), "{deleted}");
    assert!(deleted["deleted_at"].is_string() && deleted["purge_after"].is_string(), "{deleted}");
    assert_eq!(rig.listed(&[]), rig.ids(&[0]));
    assert_eq!(rig.listed(&["--deleted"]), rig.ids(&[0, 1]));
    assert_eq!(world.point("web1@latest")["id"], first);
    let to = world.path("x.raw");
    let _ = world.cli.run(&["restore", second, "--to", to.to_str().unwrap()]).fails(1, "point_deleted");
    let _ = world.cli.run(&["point", "lock", second, "--for", "1h"]).fails(1, "point_deleted");
    let again = &world.cli.json(&["point", "delete", second])[0];
    assert_eq!(again, deleted, "what is deleted stays so");
    assert_eq!(rig.collect(&["--dry-run"])["purged_points"], 0, "its window is open");
    assert_eq!(rig.collect(&[])["deleted_segments"], 0);

    let back = &world.cli.json(&["point", "undelete", second])[0];
    assert_eq!((&back["state"], &back["deleted_at"]), (&"listed".into(), &Value::Null), "{back}");
    assert_eq!(rig.listed(&[]), rig.ids(&[0, 1]));
    rig.assert_restore(&[0, 1]);
    let audited = "SELECT action FROM audit WHERE actor = 'operator' AND action LIKE 'point.%' ORDER BY id";
    let decisions: Vec<_> =
        world.database.texts(audited).into_iter().filter(|action| action != "point.restore").collect();
    assert_eq!(decisions, ["point.delete", "point.undelete"]);
}

#[test]
fn without_a_window_a_deletion_can_be_taken_back_until_the_next_collection() {
    let rig = Rig::with_points(&[("window", "0s")], 2);
    let cli = &rig.world.cli;
    let _ = cli.run(&["point", "delete", rig.id(0)]).succeeds();
    let _ = cli.run(&["point", "undelete", rig.id(0)]).succeeds();
    let _ = cli.run(&["point", "delete", rig.id(0)]).succeeds();
    let collected = rig.collect(&[]);
    assert_eq!(collected["purged_points"], 1, "{collected}");
    assert!(collected["deleted_bytes"].as_u64().unwrap() > SIZE / 2, "the first one frees it: {collected}");
    assert_eq!(rig.listed(&["--deleted"]), rig.ids(&[1]));
    rig.assert_restore(&[1]);
}

#[test]
fn a_lock_holds_a_point() {
    let rig = Rig::with_points(&[], 1);
    let (cli, point) = (&rig.world.cli, rig.id(0));
    let lock = |args: &[&str]| cli.run(&[&["point", "lock", point], args].concat());
    let _ = lock(&["--until", "2001-01-01T00:00:00Z"]).fails(1, "lock_in_the_past");
    assert_eq!(lock(&[]).code, 2, "an end is needed");
    let _ = lock(&["--for", "2h"]).succeeds();
    let _ = cli.run(&["point", "delete", point]).fails(1, "point_locked");
    let _ = lock(&["--for", "1h"]).fails(1, "lock_shortened");
    let shown = rig.world.point(point);
    assert_eq!(shown["lock"]["mode"], "governance", "{shown}");
    let _ = cli.run(&["point", "unlock", point]).succeeds();
    assert_eq!(rig.world.point(point)["lock"], Value::Null);
    let _ = lock(&["--for", "2h", "--mode", "compliance"]).succeeds();
    let _ = lock(&["--for", "3h"]).fails(1, "lock_shortened");
    assert_eq!(rig.world.point(point)["lock"]["mode"], "compliance");
    // It is not 72 hours old.
    let _ = cli.run(&["point", "unlock", point]).succeeds();
    let _ = cli.run(&["point", "delete", point]).succeeds();
}

#[test]
fn what_a_purged_point_alone_needed_is_freed() {
    let window = Duration::from_secs(2);
    let rig = Rig::with_points(&[("window", "2s")], 3);
    let world = &rig.world;
    let full = world.vault().segment_bytes();
    rig.delete_and_wait(0, window);

    let plan = rig.collect(&["--dry-run"]);
    assert_eq!((&plan["purged_points"], &plan["deleted_bytes"]), (&1.into(), &0.into()), "{plan}");
    let freed = plan["condemned_bytes"].as_u64().unwrap();
    assert!(freed > SIZE, "{plan}");
    let purged = |report: &Value| {
        let purged = report["purged"].as_array().unwrap();
        purged.iter().map(|one| (one["point"].clone(), one["machine"].clone())).collect::<Vec<_>>()
    };
    let first: (Value, Value) = (rig.id(0).into(), "web1".into());
    assert_eq!(purged(&plan), [first], "{plan}");
    assert_eq!(world.vault().segment_bytes(), full, "a plan changes nothing");
    let done = rig.collect(&[]);
    assert_eq!((&done["purged_points"], &done["deleted_bytes"]), (&1.into(), &freed.into()), "{done}");
    assert!(done["read_bytes"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(purged(&done), purged(&plan));
    assert_eq!(world.vault().segment_bytes(), full - freed);
    assert_eq!(rig.listed(&["--deleted"]), rig.ids(&[1, 2]));
    let _ = world.cli.run(&["point", "undelete", rig.id(0)]).fails(1, "point_not_found");
    rig.assert_restore(&[1, 2]);

    rig.delete_and_wait(1, window);
    let done = rig.collect(&[]);
    assert!(done["deleted_bytes"].as_u64().unwrap() > SIZE, "{done}");
    rig.assert_restore(&[2]);
    world.assert_catalogue_is_the_vault();
    let vault = world.cli.json(&["vault", "status"]);
    assert_eq!((&vault["listed_points"], &vault["soft_deleted_points"]), (&1.into(), &0.into()), "{vault}");
    assert_eq!(vault["last_collection"]["report"]["deleted_bytes"], done["deleted_bytes"], "{vault}");
    let mut df = std::process::Command::new("df");
    df.args(["--output=avail", "-B1"]).arg(world.controller.vault_dir());
    let df = String::from_utf8(df.output().unwrap().stdout).unwrap();
    let available: u64 = df.lines().nth(1).unwrap().trim().parse().unwrap();
    for free in [&vault["free_bytes"], &world.cli.json(&["status"])["vault_free_bytes"]] {
        // Others write, too.
        let free = free.as_u64().unwrap();
        assert!((available / 2..=available * 2).contains(&free), "{free}, df says {available}");
    }
    let table = world.cli.run(&["vault", "status"]).succeeds().stdout;
    assert!(table.contains("1 listed, 0 damaged, 0 deleted"), "{table}");

    let next = world.back_up("web1");
    world.assert_restores(&next, "data", &world.path("disk.raw"));
}

/// The newest one: its backup looks as if nobody worked on it any more. It can be put back, until somebody gives it up.
#[test]
fn a_point_that_the_storage_lost_can_be_put_back_or_given_up() {
    let window = Duration::from_secs(2);
    let mut rig = Rig::with_points(&[("window", "2s")], 2);
    let names = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let machine = names(&rig.world.controller.vault_dir().join("points")).next().unwrap();
    let newest = names(&machine).max().unwrap();
    let away = rig.world.path("away");
    fs::rename(&newest, &away).unwrap();
    // Passes of the resolver, also of one that remembers nothing.
    rig.world.controller.kill();
    rig.world.controller.start();
    std::thread::sleep(Duration::from_secs(3));
    assert!(!newest.try_exists().unwrap(), "something took its place");
    rig.image.fill(0, SIZE, 9);
    let copy = rig.world.path("next.raw");
    rig.image.copy(&copy);
    let next = rig.world.back_up("web1");
    rig.points.push((next, copy));
    let held = rig.collect(&[]);
    assert!(held["held_machines"][0]["reason"].as_str().unwrap().contains("is missing"), "{held}");
    fs::rename(&away, &newest).unwrap();
    rig.assert_restore(&[0, 1, 2]);
    assert_eq!(rig.collect(&[])["held_machines"], Value::Array(Vec::new()));

    fs::remove_file(&newest).unwrap();
    assert_ne!(rig.collect(&[])["held_machines"], Value::Array(Vec::new()));
    let _ = rig.world.cli.run(&["point", "delete", rig.id(1)]).succeeds();
    assert_eq!(rig.listed(&[]), rig.ids(&[0, 2]));
    let full = rig.world.vault().segment_bytes();
    let _ = rig.collect(&[]);
    std::thread::sleep(window);
    let done = rig.collect(&[]);
    assert_eq!(
        (&done["purged_points"], &done["held_machines"]),
        (&1.into(), &Value::Array(Vec::new())),
        "{done}"
    );
    wait::until("what it needed to go", PATIENCE, || {
        let _ = rig.collect(&[]);
        (rig.world.vault().segment_bytes() < full - SIZE / 2).then_some(())
    });
    assert_eq!(rig.listed(&["--deleted"]), rig.ids(&[0, 2]));
    rig.assert_restore(&[0, 2]);
    rig.world.assert_catalogue_is_the_vault();
}

/// The answer to a deletion may be lost, and the client asks again when somebody has taken the point back.
#[test]
fn what_was_decided_is_not_decided_again_by_a_repetition() {
    let rig = Rig::with_points(&[], 1);
    let (world, point) = (&rig.world, rig.id(0));
    let request = |request_id: &str| {
        let message = DeletePointRequest { point: point.to_owned(), request_id: request_id.to_owned() };
        let mut request = tonic::Request::new(message);
        let key = fs::read_to_string(&world.cli.api_key_file).unwrap();
        request.metadata_mut().insert("authorization", format!("Bearer {}", key.trim()).parse().unwrap());
        request
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut client = runtime.block_on(async {
        let ca = Certificate::from_pem(fs::read(world.controller.ca_file()).unwrap());
        let endpoint = Endpoint::from_shared(world.controller.operators()).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(ca);
        PointServiceClient::new(endpoint.tls_config(tls).unwrap().connect_lazy())
    });
    let mut delete = |request_id: &str| {
        runtime.block_on(client.delete_point(request(request_id))).unwrap().into_inner().state()
    };
    let [first, second] = ["0198a000-0000-7000-8000-000000000001", "0198a000-0000-7000-8000-000000000002"];
    assert_eq!(delete(first), PointState::SoftDeleted);
    assert_eq!(delete(first), PointState::SoftDeleted);
    let _ = world.cli.run(&["point", "undelete", point]).succeeds();
    assert_eq!(delete(first), PointState::Listed, "it was carried out before");
    assert_eq!(delete(second), PointState::SoftDeleted);
}

#[test]
fn a_policy_keeps_what_it_says() {
    let rig = Rig::with_points(&[("window", "1s"), ("collect", "1s")], 4);
    let world = &rig.world;
    let _ = world.cli.run(&["point", "lock", rig.id(1), "--for", "1h"]).succeeds();
    let policy = world.path("policy.yaml");
    let text = "name: few\nmachines: [web1]\nschedule: {every: 300d}\nretention: {last: 2}\n";
    fs::write(&policy, text).unwrap();
    let _ = world.cli.run(&["policy", "apply", "-f", policy.to_str().unwrap()]).succeeds();
    // Deleted by the policy, purged and freed by the schedule: nobody does anything here.
    wait::until("the oldest point to be purged", PATIENCE, || {
        (rig.listed(&["--deleted"]) == rig.ids(&[1, 2, 3])).then_some(())
    });
    let audited = "SELECT actor FROM audit WHERE action = 'point.delete'";
    assert_eq!(world.database.texts(audited), ["policy few"]);
    wait::until("its segments to go", PATIENCE, || {
        let freed = world.cli.json(&["vault", "status"])["last_collection"]["actor"] == "schedule";
        (freed && world.vault().segment_bytes() < 3 * SIZE + 2 * MIB).then_some(())
    });
    rig.assert_restore(&[1, 2, 3]);
    world.assert_catalogue_is_the_vault();
}

#[test]
fn a_collection_that_dies_is_finished_by_the_next() {
    let window = Duration::from_secs(1);
    let mut rig = Rig::with_points(&[("window", "1s")], 6);
    let steps = [
        "gateway::collection_begun",
        "gateway::points_purged",
        "gateway::garbage_compacted",
        "gateway::garbage_condemned",
        "gateway::garbage_swept",
    ];
    for (index, failpoint) in steps.into_iter().enumerate() {
        rig.delete_and_wait(index, window);
        rig.world.controller.stop();
        rig.world.controller.start_with(&format!("{failpoint}=1*return"));
        let cli = rig.world.cli.clone();
        let asked = std::thread::spawn(move || cli.run(&["vault", "gc"]));
        rig.world.controller.wait_for_crash(failpoint, PATIENCE);
        rig.world.controller.start();
        assert_eq!(asked.join().unwrap().code, 1, "{failpoint}");
        let since = || rig.world.cli.json(&["vault", "status"])["collecting_since"].clone();
        assert!(since().is_string(), "{failpoint}: nobody said that it ended");
        let kept: Vec<usize> = (index + 1..6).collect();
        let _ = rig.collect(&[]);
        assert_eq!(since(), Value::Null, "{failpoint}");
        assert_eq!(rig.listed(&["--deleted"]), rig.ids(&kept), "{failpoint}");
        rig.assert_restore(&kept);
        rig.world.assert_catalogue_is_the_vault();
        assert_eq!(rig.collect(&["--dry-run"])["condemned_bytes"], 0, "{failpoint}: nothing is left over");
    }
    let left = rig.world.vault().segment_bytes();
    assert!(left < SIZE + 2 * MIB, "{left} bytes for one point");
}

/// Nobody asks again: whoever asked goes before the controller is back.
#[test]
fn what_was_decided_when_the_controller_died_comes_to_the_catalogue() {
    let mut rig = Rig::with_points(&[], 1);
    let (failpoint, point) = ("gateway::decided", rig.id(0).to_owned());
    for (known, (decision, state, lock)) in (0..).zip([
        (&["delete"][..], "soft_deleted", Value::Null),
        (&["undelete"], "listed", Value::Null),
        (&["lock", "--for", "1h"], "listed", "governance".into()),
        (&["unlock"], "listed", Value::Null),
    ]) {
        let world = &mut rig.world;
        world.controller.stop();
        world.controller.start_with(&format!("{failpoint}=1*return"));
        let asked = world.cli.spawn(&[&["point", decision[0], &point], &decision[1..]].concat());
        world.controller.wait_for_crash(failpoint, PATIENCE);
        drop(asked);
        let catalogued = world.database.number("SELECT decisions::bigint FROM points");
        assert_eq!(catalogued, known, "{decision:?}: it died too late");
        world.controller.start();
        wait::until("the catalogue to follow", PATIENCE, || {
            let shown = world.point(&point);
            (shown["state"] == state && shown["lock"]["mode"] == lock).then_some(())
        });
    }
    let audited = "SELECT action FROM audit WHERE actor = 'operator' AND action LIKE 'point.%' ORDER BY id";
    let decisions = ["delete", "undelete", "lock", "unlock"].map(|name| format!("point.{name}"));
    assert_eq!(rig.world.database.texts(audited), decisions);
    rig.assert_restore(&[0]);
}

/// What the vault says of a point wins, also over a catalogue that missed it.
#[test]
fn the_catalogue_follows_the_vault() {
    let rig = Rig::with_points(&[("window", "1s")], 2);
    let (world, point) = (&rig.world, rig.id(0));
    let _ = world.cli.run(&["point", "delete", point]).succeeds();
    world
        .database
        .run("UPDATE points SET state = 'listed', decisions = 0, deleted_at = NULL, purge_after = NULL");
    wait::until("the point to be deleted again", PATIENCE, || {
        (world.point(point)["state"] == "soft_deleted").then_some(())
    });
    let _ = rig.collect(&[]);
    std::thread::sleep(Duration::from_secs(1));
    let _ = rig.collect(&[]);
    // A catalogue that never knew it does not list it.
    world.database.run("DELETE FROM points");
    wait::until("the other point to be found again", PATIENCE, || {
        (rig.listed(&["--deleted"]) == rig.ids(&[1])).then_some(())
    });
    world.assert_catalogue_is_the_vault();
    rig.assert_restore(&[1]);
}
