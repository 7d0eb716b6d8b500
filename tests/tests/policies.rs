//! Policies from the command line to the point, with the real programs.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use holdfast_tests::{Image, World, wait};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Writes a policy to a file and gives its path.
fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.path(&format!("{name}.yaml"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn codes(machine: &Value) -> Vec<&str> {
    machine["conditions"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect()
}

#[test]
fn a_schedule_makes_jobs_and_points_without_a_hand() {
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 7);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let _other = world.running_agent("web2", &[("data", &image.path)]);
    assert_eq!(codes(&world.machine("web1")), ["unprotected"]);

    let policy = file(&world, "often", "name: often\nselector: {env: prod}\nschedule: {every: 10s}\n");
    let applied = world.cli.json(&["policy", "apply", "-f", &policy]);
    assert_eq!(applied[0]["outcome"], "created", "{applied:#}");
    assert_eq!(applied[0]["machines"], serde_json::json!([]));
    let _ = world.cli.run(&["machine", "label", "web1", "env=prod", "team=a"]).succeeds();
    let preview = world.cli.json(&["policy", "preview", "often", "--count", "3"]);
    assert_eq!(preview["machines"], serde_json::json!(["web1"]));
    assert_eq!(preview["slots"].as_array().unwrap().len(), 3);

    let done = |count: usize| {
        wait::until(&format!("{count} scheduled backups"), Duration::from_secs(60), || {
            let jobs = world.cli.json(&["job", "list", "--machine", "web1", "--state", "succeeded"]);
            let jobs = jobs.as_array().unwrap().clone();
            (jobs.len() >= count).then_some(jobs)
        })
    };
    let first = done(1);
    assert_eq!(first[0]["policy"], "often", "{:#}", first[0]);
    assert_eq!(first[0]["policy_revision"], 1);
    assert!(first[0]["slot"].as_str().unwrap().ends_with("0Z"), "{}", first[0]["slot"]);
    image.scatter(10, 8);
    let both = done(2);
    assert_ne!(both[0]["slot"], both[1]["slot"]);
    let machine = world.machine("web1");
    assert_eq!(machine["policy"], "often");
    assert_eq!(codes(&machine), [""; 0]);
    assert_eq!(codes(&world.machine("web2")), ["unprotected"]);
    assert!(world.cli.json(&["job", "list", "--machine", "web2"]).as_array().unwrap().is_empty());
    assert_eq!(world.cli.json(&["status"])["conditions"], serde_json::json!({"unprotected": 1}));

    // Deleted: nothing more comes, and what is there stays.
    let _ = world.cli.run(&["policy", "delete", "often"]).succeeds();
    let idle = || {
        let jobs = world.cli.json(&["job", "list", "--machine", "web1", "--limit", "1000"]);
        let jobs = jobs.as_array().unwrap();
        let busy = jobs.iter().any(|job| job["state"] == "queued" || job["state"] == "running");
        (!busy).then_some(jobs.len())
    };
    let count = wait::until("the last job to end", Duration::from_secs(30), idle);
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(idle(), Some(count));
    let newest = world.cli.json(&["point", "list", "web1"])[0]["id"].as_str().unwrap().to_owned();
    world.assert_restores(&newest, "data", &image.path);
}

#[test]
fn a_policy_is_checked_shown_and_changed() {
    let world = World::start();
    let _ = world.enrolled_agent("web1", &[]);
    let text = "name: daily\nmachines:\n- web1\nschedule:\n  cron: 0 2 * * *\n  time_zone: Europe/Berlin\n\
                retention:\n  daily: 7\n  monthly: 12\nconsistency:\n  minimum: crash\ncomplete_within: 4h\n";
    let path = file(&world, "daily", text);
    let tables = ["policies", "audit", "jobs"];
    let before = world.database.row_counts(&tables);
    let dry = world.cli.json(&["policy", "apply", "-f", &path, "--dry-run"]);
    assert_eq!((&dry[0]["outcome"], &dry[0]["machines"]), (&"created".into(), &serde_json::json!(["web1"])));
    assert_eq!(world.database.row_counts(&tables), before, "a dry run changes nothing");

    let _ = world.cli.run(&["policy", "apply", "-f", &path]).succeeds();
    let shown = world.cli.run(&["policy", "show", "daily", "-o", "yaml"]).succeeds();
    assert_eq!(shown.stdout, text);
    let again = world.cli.json(&["policy", "apply", "-f", &file(&world, "shown", &shown.stdout)]);
    assert_eq!(again[0]["outcome"], "unchanged");
    assert_eq!(again[0]["policy"]["revision"], 1);

    // The second of two documents is wrong: the first one is not applied either.
    let two = format!(
        "name: other\nmachines: [web9]\nschedule: {{every: 1h}}\n---\n{}",
        text.replace("0 2 * * *", "0 2 * *")
    );
    let before = world.database.row_counts(&tables);
    let refused = world.cli.run(&["policy", "apply", "-f", &file(&world, "two", &two)]);
    let _ = refused.fails(2, "invalid_policy");
    let unknown = text.replace("retention", "retension");
    let _ =
        world.cli.run(&["policy", "apply", "-f", &file(&world, "unknown", &unknown)]).fails(2, "bad_policy");
    let _ = world.cli.run(&["policy", "apply", "-f", "/does/not/exist"]).fails(2, "file_not_readable");
    let _ = world.cli.run(&["policy", "show", "nothing"]).fails(1, "policy_not_found");
    let _ = world.cli.run(&["machine", "label", "web1", "a b=c"]).fails(2, "invalid_label");
    assert_eq!(world.database.row_counts(&tables), before);

    // A tie protects nothing, and is told.
    let tie = file(&world, "tie", "name: tie\nmachines: [web1]\nschedule: {every: 1h}\n");
    let applied = world.cli.json(&["policy", "apply", "-f", &tie]);
    assert_eq!(applied[0]["conflicts"], serde_json::json!(["web1"]));
    assert_eq!(codes(&world.machine("web1")), ["policy_conflict"]);
    let etag = world.cli.json(&["policy", "show", "tie"])["etag"].as_str().unwrap().to_owned();
    let _ = world.cli.run(&["policy", "delete", "tie", "--etag", "old"]).fails(1, "policy_changed");
    let _ = world.cli.run(&["policy", "delete", "tie", "--etag", &etag]).succeeds();
    assert_eq!(world.machine("web1")["policy"], "daily");

    // One that cannot be read hides no other one.
    world.database.run(
        "INSERT INTO policies (id, name, spec) VALUES (gen_random_uuid(), 'new', '{\"weather\": \"fine\"}')",
    );
    let list = world.cli.run(&["policy", "list"]).succeeds();
    assert!(list.stdout.contains("daily") && list.stderr.contains("policy new cannot be read"), "{list:?}");
}

#[test]
fn a_disk_that_is_gone_is_told_where_all_are_wanted() {
    let world = World::start();
    let (data, log) = (world.path("data.raw"), world.path("log.raw"));
    let (data, log) = (Image::random(&data, MIB, 8), Image::random(&log, MIB, 9));
    let mut agent = world.running_agent("web1", &[("data", &data.path), ("log", &log.path)]);
    let _ = world.back_up("web1");
    // Whoever names a disk misses no other one, and that point is not what the next one is held against.
    let named = world.cli.json(&["backup", "web1", "--disk", "data", "--wait"]);
    assert_eq!(named["state"], "succeeded", "{named:#}");

    agent.stop();
    let mut agent = world.new_agent("web1", &[("data", &data.path)]);
    agent.start();
    wait::until("the disk to be gone", Duration::from_secs(30), || {
        let machine = world.machine("web1");
        (machine["state"] == "online" && machine["disks"].as_array()?.len() == 1).then_some(())
    });
    let job = world.cli.json(&["backup", "web1", "--wait"]);
    assert_eq!(job["state"], "succeeded_with_warnings", "{job:#}");
    assert_eq!(job["error"]["code"], "disk_missing", "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().ends_with("has: log"), "{job:#}");
    world.assert_restores(job["point"].as_str().unwrap(), "data", &data.path);
    // If that is meant, it is told once.
    let _ = world.back_up("web1");
}
