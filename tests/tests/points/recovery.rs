//! The database is lost: the vault has everything that restores.

use holdfast_tests::{Image, Postgres, World, wait};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 9 * MIB + 555;

fn points(world: &World) -> Vec<Value> {
    let mut points = world.cli.json(&["point", "list", "--deleted"]).as_array().unwrap().clone();
    points.sort_by_key(|point| point["id"].as_str().unwrap().to_owned());
    points
}

#[test]
fn the_catalogue_is_rebuilt_from_the_vault() {
    let mut world = World::start_with(Postgres::shared(), &[("window", "1s")]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let mut agent = world.running_agent("web1", &[("data", &image.path)]);
    let _other = world.running_agent("web2", &[("data", &image.path)]);
    let ids: Vec<String> = (0..4).map(|_| world.back_up("web1")).collect();
    let of_other = world.back_up("web2");
    let _ = world.cli.run(&["point", "delete", &ids[0]]).succeeds();
    let _ = world.cli.run(&["vault", "gc"]).succeeds();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(world.cli.json(&["vault", "gc"])["purged_points"], 1);
    let _ = world.cli.run(&["point", "delete", &ids[1]]).succeeds();
    let _ = world.cli.run(&["point", "lock", &ids[2], "--for", "2h", "--mode", "compliance"]).succeeds();
    let before = points(&world);
    assert_eq!(before.len(), 4, "{before:#?}");
    assert_eq!(world.cli.json(&["vault", "rebuild-catalogue"])["added_points"], 0, "all is there");

    agent.stop();
    world.lose_database();
    assert_eq!(points(&world), Vec::<Value>::new());
    let viewer = world.cli_with_key(world.controller.create_api_key("watcher", "viewer"));
    let _ = viewer.run(&["vault", "rebuild-catalogue"]).fails(1, "role_too_low");
    let rebuilt = world.cli.json(&["vault", "rebuild-catalogue"]);
    assert_eq!(
        (&rebuilt["added_machines"], &rebuilt["added_points"], &rebuilt["damaged_points"]),
        (&2.into(), &4.into(), &0.into()),
        "{rebuilt}"
    );
    assert_eq!(points(&world), before, "with deletions and locks");
    assert_eq!(world.cli.json(&["vault", "rebuild-catalogue"])["added_machines"], 0);
    world.assert_restores(&of_other, "data", &image.path);
    world.assert_restores(&ids[2], "data", &image.path);
    let machine = world.machine("web1");
    assert_eq!((&machine["state"], &machine["disks"][0]["size_bytes"]), (&"offline".into(), &SIZE.into()));
    assert_eq!(world.cli.json(&["status"])["machines"]["offline"], 2);

    // Whether it was removed before nobody knows: until somebody enrols its agent no policy has it.
    assert_eq!(machine["conditions"][0]["code"], "no_agent", "{machine:#}");
    assert_eq!(machine["removed_at"], Value::Null);

    // A new agent takes the machine's place, and goes on where the old one was.
    let _ = agent.enrol_again(&world.enrolment(&["--machine", "web1"])).succeeds();
    agent.start();
    world.wait_for_machine("web1", "online");
    assert_eq!(world.machine("web1")["conditions"][0]["code"], "unprotected");
    image.fill(MIB, MIB, 7);
    let next = world.back_up("web1");
    let sent = world.point(&next)["disks"][0]["sent_bytes"].as_u64().unwrap();
    assert!(sent < 2 * MIB, "{sent}");
    world.assert_restores(&next, "data", &image.path);
    world.assert_catalogue_is_the_vault();
}

/// The database was put back from a copy that is older than the vault.
#[test]
fn an_older_database_catches_up_and_nothing_is_lost() {
    let mut world = World::start_with(Postgres::own(), &[("window", "1s")]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 1);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let purged = world.back_up("web1");
    let deleted = world.back_up("web1");
    let kept = world.back_up("web1");
    world.controller.kill();
    let copy = world.postgres.save();
    world.controller.start();
    world.wait_for_machine("web1", "online");

    let old = world.path("old.raw");
    std::fs::copy(&image.path, &old).unwrap();
    image.fill(2 * MIB, MIB, 7);
    let newer = world.back_up("web1");
    let _ = world.cli.run(&["point", "delete", &purged]).succeeds();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _ = world.cli.run(&["vault", "gc"]).succeeds();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(world.cli.json(&["vault", "gc"])["purged_points"], 1);
    let _ = world.cli.run(&["point", "delete", &deleted]).succeeds();
    let _ = world.cli.run(&["point", "lock", &kept, "--for", "2h"]).succeeds();

    world.controller.kill();
    world.postgres.put_back(&copy);
    world.controller.start();
    // Before anything else: what the database has not heard of is as safe as before.
    let _ = world.cli.run(&["vault", "gc"]).succeeds();
    world.assert_catalogue_is_the_vault();
    let states = |id: &str| {
        let found = points(&world).into_iter().find(|point| point["id"] == id)?;
        Some(found["state"].as_str().unwrap().to_owned())
    };
    wait::until("the decisions to be known", std::time::Duration::from_secs(20), || {
        (states(&purged).is_none() && states(&deleted).as_deref() == Some("soft_deleted")).then_some(())
    });
    let _ = world.cli.run(&["point", "delete", &kept]).fails(1, "point_locked");
    world.assert_restores(&kept, "data", &old);
    world.assert_restores(&newer, "data", &image.path);
    let _ = world.cli.run(&["vault", "check", "--read-data"]).succeeds();

    world.wait_for_machine("web1", "online");
    image.fill(5 * MIB, MIB, 8);
    let next = world.back_up("web1");
    world.assert_restores(&next, "data", &image.path);
}
