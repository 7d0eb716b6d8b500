//! One identity in two places: a copy of a machine is found out, a machine that was moved, rebooted or replaced is not taken for one.

use std::time::Duration;

use holdfast_tests::{Agent, Image, World, is_root_or_skips, wait};

use super::{MIB, PATIENCE, assert_enrol_refused, unchanged};

#[test]
fn a_hard_reboot_is_no_clone() {
    if !is_root_or_skips("a_hard_reboot_is_no_clone") {
        return;
    }
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let mut agent = world.running_agent("web1", &[("data", &image.path)]);
    let epoch = || world.database.number("SELECT epoch FROM agent_sessions");
    let before = epoch();
    // Frozen, the old connection stays open and answers nothing: as after a power cut.
    agent.freeze();
    let mut rebooted = agent.copy(
        &world.path("agents"),
        &world.logs(),
        &world.controller.agents(),
        &[("data", &image.path)],
    );
    rebooted.start_with_boot_id("00000000-0000-4000-8000-00000000b007");
    wait::until("the session after the boot", PATIENCE, || (epoch() > before).then_some(()));
    agent.kill();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.machine("web1")["state"], "online");
    let point = world.back_up("web1");
    world.assert_restores(&point, "data", &image.path);
}

#[test]
fn a_clone_that_meets_another_controller_is_quarantined_as_well() {
    if !is_root_or_skips("a_clone_that_meets_another_controller_is_quarantined_as_well") {
        return;
    }
    let world = World::start();
    let mut other = world.controller.beside(&world.path("controller-2"), &world.logs());
    other.start();
    let agent = world.running_agent("web1", &[]);
    let mut clone = agent.copy(&world.path("agents"), &world.logs(), &other.agents(), &[]);
    clone.start_with_boot_id("00000000-0000-4000-8000-0000000c104e");
    world.wait_for_machine("web1", "quarantined");
}

#[test]
fn an_agent_that_moves_to_another_controller_is_no_clone() {
    let world = World::start();
    let mut other = world.controller.beside(&world.path("controller-2"), &world.logs());
    other.start();
    let mut agent = world.running_agent("web1", &[]);
    // It does not come to say goodbye.
    agent.freeze();
    let mut moved = agent.copy(&world.path("agents"), &world.logs(), &other.agents(), &[]);
    let sessions = || world.database.number("SELECT epoch FROM agent_sessions");
    let before = sessions();
    moved.start();
    wait::until("the session at the other controller", PATIENCE, || (sessions() > before).then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    agent.kill();
    assert_eq!(world.machine("web1")["state"], "online");
}

#[test]
fn a_clone_is_quarantined_with_its_original() {
    if !is_root_or_skips("a_clone_is_quarantined_with_its_original") {
        return;
    }
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let agent = world.running_agent("web1", &[("data", &image.path)]);
    let copied = Image::random(&world.path("copied.raw"), 4 * MIB, 1);
    let mut clone = agent.copy(
        &world.path("agents"),
        &world.logs(),
        &world.controller.agents(),
        &[("data", &copied.path)],
    );
    clone.start_with_boot_id("00000000-0000-4000-8000-0000000c104e");
    world.wait_for_machine("web1", "quarantined");
    let machine = world.machine("web1");
    assert_eq!(machine["conditions"][0]["code"], "clone", "{machine}");
    unchanged(&world, || world.cli.run(&["backup", "web1"]).fails(1, "machine_quarantined"));
    // Neither of them gets back in.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.machine("web1")["state"], "quarantined");
    assert_eq!(
        world.database.number("SELECT count(*) FROM agent_sessions WHERE controller_id IS NOT NULL"),
        0
    );
}

#[test]
fn an_original_goes_on_when_its_quarantine_is_lifted() {
    if !is_root_or_skips("an_original_goes_on_when_its_quarantine_is_lifted") {
        return;
    }
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let agent = world.running_agent("web1", &[("data", &image.path)]);
    let mut clone = agent.copy(&world.path("agents"), &world.logs(), &world.controller.agents(), &[]);
    clone.start_with_boot_id("00000000-0000-4000-8000-0000000c104e");
    world.wait_for_machine("web1", "quarantined");
    let viewer = world.cli_with_key(world.controller.create_api_key("looker", "viewer"));
    let lift = ["machine", "lift-quarantine", "web1"];
    unchanged(&world, || viewer.run(&lift).fails(1, "role_too_low"));

    // As long as both are there it does not help.
    let _ = world.cli.run(&lift).succeeds();
    wait::until("both to be found again", PATIENCE, || {
        let found = "SELECT count(*) FROM audit WHERE action = 'machine.quarantine'";
        (world.database.number(found) == 2).then_some(())
    });
    clone.kill();
    let _ = world.cli.run(&lift).succeeds();
    world.wait_for_machine("web1", "online");
    let point = world.back_up("web1");
    world.assert_restores(&point, "data", &image.path);
    let lifted = "SELECT count(*) FROM audit WHERE action = 'machine.lift_quarantine' AND actor = 'operator'";
    assert_eq!(world.database.number(lifted), 2);
    // What is so already changes nothing.
    let _ = world.cli.run(&lift).succeeds();
    assert_eq!(world.database.number(lifted), 2);
}

#[test]
fn a_new_agent_takes_the_place_of_an_old_one() {
    let world = World::start();
    let image = Image::random(&world.path("disk.raw"), 4 * MIB, 1);
    let disks = [("data", image.path.as_path())];
    let mut old = world.running_agent("web1", &disks);
    let first = world.back_up("web1");
    let id = world.machine("web1")["id"].clone();

    let mut new =
        Agent::configure(&world.path("rebuilt"), &world.logs(), "web1", &world.controller.agents(), &disks);
    let plain = world.enrolment(&[]);
    unchanged(&world, || assert_enrol_refused(&new.enrol(&plain), "--machine"));
    let viewer = world.cli_with_key(world.controller.create_api_key("looker", "viewer"));
    let token = ["token", "create", "--machine", "web1"];
    unchanged(&world, || viewer.run(&token).fails(1, "role_too_low"));
    let _ = world.cli.run(&["token", "create", "--machine", "web9"]).fails(1, "machine_not_found");
    assert_eq!(world.cli.run(&[&token[..], &["--uses", "2"]].concat()).code, 2);

    let enrolment = world.enrolment(&["--machine", "web1"]);
    let other = world.new_agent("web2", &disks);
    unchanged(&world, || assert_enrol_refused(&other.enrol(&enrolment), "--name web1"));
    let _ = new.enrol(&enrolment).succeeds();
    // The old one has no say any more, and is no clone: it is told so, and what it held is free.
    world.wait_for_machine("web1", "offline");
    new.start();
    world.wait_for_machine("web1", "online");
    let machine = world.machine("web1");
    assert_eq!(
        (&machine["id"], &machine["conditions"][0]["code"]),
        (&id, &"unprotected".into()),
        "{machine}"
    );
    let second = world.back_up("web1");
    world.assert_restores(&first, "data", &image.path);
    world.assert_restores(&second, "data", &image.path);
    assert_eq!(world.cli.json(&["point", "list", "web1"]).as_array().unwrap().len(), 2);
    new.stop();
    assert_enrol_refused(&new.enrol(&enrolment), "enrolled already");
    assert_enrol_refused(&other.enrol(&enrolment), "token");
    let _ = world.cli.run(&["machine", "show", "web2"]).fails(1, "machine_not_found");
    assert_eq!(world.database.number("SELECT count(*) FROM audit WHERE action = 'agent.take_over'"), 1);
    old.kill();
}

#[test]
fn an_agent_whose_place_was_taken_at_another_controller_is_no_clone() {
    let world = World::start();
    let mut other = world.controller.beside(&world.path("controller-2"), &world.logs());
    other.start();
    let mut old = world.running_agent("web1", &[]);
    let mut new = Agent::configure(&world.path("rebuilt"), &world.logs(), "web1", &other.agents(), &[]);
    let _ = new.enrol(&world.enrolment(&["--machine", "web1"])).succeeds();
    new.start();
    world.wait_for_machine("web1", "online");
    // Longer than the first controller needs to see that its session is over.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(world.machine("web1")["state"], "online");
    old.kill();
}
