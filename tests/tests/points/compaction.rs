//! Dead blocks of segments that points still need: freed, also if the controller dies over it.

use std::time::Duration;

use holdfast_tests::{Image, Postgres, World};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB + 555;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn dead_blocks_are_freed() {
    let mut world = World::start_with(Postgres::shared(), &[("window", "1s")]);
    let image = Image::random(&world.path("disk.raw"), SIZE, 0);
    let _agent = world.running_agent("web1", &[("data", &image.path)]);
    let first = world.back_up("web1");
    // Half of the blocks of each cell.
    for offset in (0..24 * MIB).step_by(64 << 10) {
        image.fill(offset, 32 << 10, offset);
    }
    let second = world.back_up("web1");
    let copy = world.path("copy.raw");
    image.copy(&copy);
    let restores = |world: &World| {
        world.assert_restores(&second, "data", &copy);
        world.assert_vault_restores(&second, "data", &copy);
    };
    assert!(world.vault().segment_bytes() > 35 * MIB);
    let gc =
        |world: &World, args: &[&str]| world.cli.json(&[&["vault", "gc", "--compact-all"], args].concat());
    let _ = world.cli.run(&["point", "delete", &first]).succeeds();
    let report = gc(&world, &[]);
    assert_eq!((&report["purged_points"], &report["compacted_segments"]), (&0.into(), &0.into()), "{report}");
    std::thread::sleep(Duration::from_secs(1));
    let plan = gc(&world, &["--dry-run"]);
    let freed = plan["compacted_bytes"].as_u64().unwrap();
    assert!(plan["compacted_segments"].as_u64().unwrap() > 0, "{plan}");
    assert!((11..=12).contains(&(freed / MIB)), "{plan}");

    world.controller.stop();
    world.controller.start_with("engine::segment_replaced=1*return");
    let cli = world.cli.clone();
    let asked = std::thread::spawn(move || cli.run(&["vault", "gc", "--compact-all"]));
    world.controller.wait_for_crash("engine::segment_replaced", PATIENCE);
    world.controller.start();
    assert_eq!(asked.join().unwrap().code, 1);
    restores(&world);

    let report = gc(&world, &[]);
    // The one that was written before the crash counts.
    let compacted = plan["compacted_segments"].as_u64().unwrap();
    assert_eq!(report["compacted_segments"], compacted - 1, "{report}");
    assert!(report["deleted_segments"].as_u64().unwrap() >= compacted, "{report}");
    let left = world.vault().segment_bytes();
    assert!(left < SIZE + MIB, "{left} bytes for one point");
    restores(&world);
    let checked = world.cli.json(&["vault", "check", "--read-data"]);
    assert_eq!(checked["findings"], serde_json::json!([]), "{checked}");
    // The next backup builds upon it.
    image.scatter(20, 7);
    image.copy(&copy);
    let third = world.back_up("web1");
    world.assert_restores(&third, "data", &copy);
    world.assert_catalogue_is_the_vault();
    let text = world.cli.run(&["vault", "gc", "--compact-all"]).succeeds();
    assert!(text.stdout.contains("purged 0 points, freed 0"), "{text:?}");
}
