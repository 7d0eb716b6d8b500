//! A machine is removed: nothing new comes of it, and nothing that is there goes.

use std::time::Duration;

use holdfast_tests::{Agent, Image, World, wait};
use serde_json::json;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_removed_machine_is_refused_and_its_points_restore() {
    let world = World::start();
    let old = Image::random(&world.path("old.raw"), 3 * MIB, 1);
    let mut agent = world.running_agent("web1", &[("data", &old.path)]);
    let point = world.back_up("web1");
    let policy = world.path("daily.yaml");
    std::fs::write(&policy, "name: daily\nmachines: [web1]\nschedule: {every: 24h}\nretention: {last: 1}\n")
        .unwrap();
    let _ = world.cli.run(&["policy", "apply", "-f", policy.to_str().unwrap()]).succeeds();
    let protected = || world.cli.json(&["policy", "preview", "daily"])["machines"].clone();
    assert_eq!(protected(), json!(["web1"]));
    let id = world.machine("web1")["id"].as_str().unwrap().to_owned();
    let to_take_over = world.enrolment(&["--machine", "web1"]);

    // Not while something runs.
    agent.freeze();
    let job = world.start_backup("web1");
    wait::until("the job to run", PATIENCE, || (world.job(&job)["state"] == "running").then_some(()));
    let refused = world.cli.run(&["machine", "remove", "web1"]).fails(1, "machine_busy");
    assert!(refused.stderr.contains(&format!("holdfast job cancel {job}")), "{refused:?}");
    agent.thaw();
    let _ = world.cli.run(&["job", "cancel", &job]).succeeds();
    assert_eq!(world.wait_for_job(&job)["state"], "cancelled");
    let viewer = world.cli_with_key(world.controller.create_api_key("watcher", "viewer"));
    let _ = viewer.run(&["machine", "remove", "web1"]).fails(1, "role_too_low");
    assert_eq!(world.machine("web1")["removed_at"], json!(null));

    let removed = world.cli.json(&["machine", "remove", "web1"]);
    assert_eq!((&removed["state"], &removed["id"]), (&json!("removed"), &json!(id)));
    assert_eq!(world.cli.json(&["machine", "remove", "web1"]), removed, "once more changes nothing");
    wait::until("the agent to be told", PATIENCE, || {
        log_of(&world).contains("its machine was removed").then_some(())
    });
    agent.stop();
    agent.start();
    let refusals = log_of(&world).matches("its machine was removed").count();
    wait::until("the agent to be told again", PATIENCE, || {
        (log_of(&world).matches("its machine was removed").count() > refusals).then_some(())
    });
    assert_eq!(protected(), json!([]));
    assert_eq!(world.cli.json(&["machine", "list"]), json!([]));
    assert_eq!(world.cli.json(&["machine", "list", "--all"])[0]["id"], json!(id));
    assert_eq!(world.cli.json(&["status"])["conditions"], json!({}));
    let _ = world.cli.run(&["backup", "web1"]).fails(1, "machine_removed");
    let _ = world.cli.run(&["token", "create", "--machine", "web1"]).fails(1, "machine_removed");
    let _ = world.cli.run(&["machine", "label", "web1", "a=b"]).fails(1, "machine_removed");
    agent.stop();
    let late = agent.enrol_again(&to_take_over);
    assert!(late.code == 1 && late.stderr.contains("holdfast token create"), "{late:?}");
    world.assert_restores(&point, "data", &old.path);
    world.assert_restores("web1@latest", "data", &old.path);

    // Another machine of that name is another machine.
    let new = Image::random(&world.path("new.raw"), 3 * MIB, 2);
    let disks = [("data", new.path.as_path())];
    let mut next =
        Agent::configure(&world.path("next"), &world.logs(), "web1", &world.controller.agents(), &disks);
    let _ = next.enrol(&world.enrolment(&[])).succeeds();
    next.start();
    world.wait_for_machine("web1", "online");
    assert_ne!(world.machine("web1")["id"], json!(id));
    assert_eq!(protected(), json!(["web1"]));
    let _ = world.cli.run(&["point", "show", "web1@latest"]).fails(1, "point_not_found");
    let of_next = world.back_up("web1");
    world.assert_restores("web1@latest", "data", &new.path);
    assert_eq!(world.cli.json(&["point", "list", "web1"])[0]["id"], json!(of_next));
    assert_eq!(world.cli.json(&["point", "list", &id])[0]["id"], json!(point));
    assert_eq!(world.cli.json(&["vault", "rebuild-catalogue"])["added_machines"], 0);
    assert_eq!(world.cli.json(&["machine", "show", &id])["state"], "removed");
    world.assert_restores(&point, "data", &old.path);
    let _ = world.cli.run(&["point", "delete", &point]).succeeds();
    world.assert_catalogue_is_the_vault();
}

/// What all programs logged.
fn log_of(world: &World) -> String {
    let logs = std::fs::read_dir(world.logs()).unwrap();
    logs.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}
