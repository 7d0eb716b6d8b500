//! Damage is found before a restore needs what is damaged, named to the byte, and healed by the next backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::{Image, Postgres, World, wait};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 12 * MIB + 555;
const PATIENCE: Duration = Duration::from_secs(60);

/// The files of a backup's segments, the largest first.
fn segments(vault: &Path, machine: &str, seq: u64) -> Vec<PathBuf> {
    let folder = vault.join(format!("seg/{machine}/{seq:020}"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_found_named_and_healed() {
    let world = World::start_with(Postgres::shared(), &[]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let copy = |name: &str| {
        let copy = world.path(name);
        image.copy(&copy);
        copy
    };
    let first_copy = copy("first.raw");
    let first = world.back_up("web1");
    image.fill(4 * MIB, 2 * MIB, 2);
    let second = world.back_up("web1");
    let check = |args: &[&str]| world.cli.run(&[&["vault", "check", "-o", "json"], args].concat());

    let sound = check(&["--read-data"]).succeeds().json();
    assert_eq!((&sound["points"], &sound["findings"]), (&2.into(), &Value::Array(Vec::new())), "{sound}");
    assert!(sound["read_bytes"].as_u64().unwrap() > SIZE, "{sound}");
    let viewer = world.cli_with_key(world.controller.create_api_key("watcher", "viewer"));
    let _ = viewer.run(&["vault", "check"]).fails(1, "role_too_low");
    let _ = world.cli.run(&["vault", "check", "--machine", "web9"]).fails(1, "machine_not_found");

    let machine = world.machine("web1")["id"].as_str().unwrap().to_owned();
    let damaged = segments(&world.controller.vault_dir(), &machine, 2).remove(0);
    flip(&damaged, 1 << 20);
    let _ = check(&[]).succeeds();
    for sample in ["100%", "100"] {
        let answer = check(&["--sample", sample, "--machine", "web1"]);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert_eq!(answer.json()["findings"].as_array().unwrap().len(), 1, "{answer:?}");
    }
    let answer = check(&["--read-data"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("(damage_found)"), "{answer:?}");
    assert_eq!(world.cli.json(&["status"])["conditions"]["points_damaged"], 1);
    let conditions = world.machine("web1")["conditions"].clone();
    assert!(conditions.as_array().unwrap().iter().any(|one| one["code"] == "points_damaged"), "{conditions}");
    let report = answer.json();
    let [finding] = report["findings"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!(
        (&finding["machine"], &finding["point"], &finding["disk"]),
        (&"web1".into(), &second.as_str().into(), &"data".into()),
        "{report:#}"
    );
    let range = &finding["ranges"][0];
    let (start, end) = (range["start"].as_u64().unwrap(), range["end"].as_u64().unwrap());
    assert!(start >= 4 * MIB && end <= 6 * MIB && end - start <= 128 << 10, "{report:#}");
    assert_eq!(world.point(&second)["state"], "damaged");
    assert_eq!(world.point(&first)["state"], "listed");
    assert_eq!(world.point("web1@latest")["id"], first.as_str());
    let tool = world.vault().run(&["check", "--read-data", "-o", "json"]);
    assert_eq!(tool.code, 1, "{tool:?}");
    assert_eq!(tool.json()["findings"][0]["ranges"], finding["ranges"]);
    let _ = world.vault().run(&["check"]).succeeds();
    let _ = world.cli.run(&["point", "verify", &first]).succeeds();
    world.assert_restores(&first, "data", &first_copy);

    // Nothing of what is damaged is built upon.
    let job = world.cli.json(&["backup", "web1", "--wait"]);
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&"succeeded_with_warnings".into(), &"full_after_damage".into())
    );
    let told = |part: &str| job["error"][part].as_str().unwrap().to_owned();
    assert!(told("message").contains(&second), "{job:#}");
    let next = told("action");
    assert!(next.contains("`holdfast vault check --machine web1 --read-data`"), "{job:#}");
    assert!(next.contains(&format!("seg/{machine}/")), "{job:#}");
    let third = job["point"].as_str().unwrap().to_owned();
    assert!(world.point(&third)["disks"][0]["sent_bytes"].as_u64().unwrap() >= SIZE);
    world.assert_restores(&third, "data", &image.path);
    let _ = world.cli.run(&["point", "verify", "web1@latest"]).succeeds();

    // It is brought back from a copy.
    flip(&damaged, 1 << 20);
    let _ = check(&["--read-data"]).succeeds();
    assert_eq!(world.point(&second)["state"], "listed");
    let audited = "SELECT action FROM audit WHERE action IN ('point.damaged', 'point.sound') ORDER BY id";
    assert_eq!(world.database.texts(audited), ["point.damaged", "point.sound"]);
    // The next one after a healthy point is an incremental again.
    let fourth = world.back_up("web1");
    assert_eq!(world.point(&fourth)["disks"][0]["sent_bytes"], 0);
}

#[test]
fn a_point_that_the_vault_lost_is_found() {
    let world = World::start_with(Postgres::shared(), &[]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let first = world.back_up("web1");
    let second = world.back_up("web1");
    let machine = world.machine("web1")["id"].as_str().unwrap().to_owned();
    let object = world.controller.vault_dir().join(format!("points/{machine}/{:020}", 2));
    let kept = world.path("kept");
    fs::rename(&object, &kept).unwrap();
    let answer = world.cli.run(&["vault", "check", "-o", "json"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let finding = &answer.json()["findings"][0];
    assert_eq!(
        (&finding["machine"], &finding["point"]),
        (&"web1".into(), &second.as_str().into()),
        "{answer:?}"
    );
    assert_eq!(world.point(&second)["state"], "damaged");
    assert_eq!(world.point("web1@latest")["id"], first.as_str());
    fs::rename(&kept, &object).unwrap();
    let _ = world.cli.run(&["point", "verify", &second]).succeeds();
    assert_eq!(world.point(&second)["state"], "listed");
}

#[test]
fn everything_is_read_in_its_time() {
    let world = World::start_with(Postgres::shared(), &[("verify", "1s")]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let first = world.back_up("web1");
    let verified = "SELECT count(*) FROM machines WHERE verified_at > now() - interval '3 seconds'";
    wait::until("the machine to be verified", PATIENCE, || {
        (world.database.number(verified) == 1).then_some(())
    });
    let machine = world.machine("web1");
    assert!(machine["verified_at"].is_string(), "{machine:#}");
    let machine = machine["id"].as_str().unwrap().to_owned();
    let damaged = segments(&world.controller.vault_dir(), &machine, 1).remove(0);
    flip(&damaged, 1 << 20);
    wait::until("the damage to be found", PATIENCE, || {
        (world.point(&first)["state"] == "damaged").then_some(())
    });
    flip(&damaged, 1 << 20);
    wait::until("it to be whole again", PATIENCE, || {
        (world.point(&first)["state"] == "listed").then_some(())
    });
    let status = world.cli.json(&["status"]);
    assert_eq!(status["conditions"].get("points_damaged"), None, "{status}");
    assert_eq!(status["vault_error"], Value::Null);
}
