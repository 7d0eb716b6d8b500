//! The whole system with its vault in S3.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_tests::s3::S3Server;
use holdfast_tests::vault::VaultTool;
use holdfast_tests::{Agent, Image, Postgres, World, cli, image, program};

const MIB: u64 = 1 << 20;

/// Two controllers over one vault in S3, each with a machine of its own, at once.
#[test]
fn what_is_backed_up_to_s3_comes_back_through_every_controller() {
    let Some(server) = S3Server::start("what_is_backed_up_to_s3_comes_back_through_every_controller") else {
        return;
    };
    let place = server.new_place();
    let world = World::start_in(World::folder_with(&server.vault_table(&place)), Postgres::shared(), &[]);
    assert!(!world.controller.vault_dir().try_exists().unwrap(), "there is a vault in a folder as well");
    let mut other = world.controller.beside(&world.path("controller-2"), &world.logs());
    other.start();

    let disks =
        [1, 2].map(|seed| Image::random(&world.path(&format!("disk-{seed}.raw")), 48 * MIB + 77, seed));
    let _first = world.running_agent("web1", &[("data", &disks[0].path)]);
    let mut second = Agent::configure(
        &world.path("agents"),
        &world.logs(),
        "web2",
        &other.agents(),
        &[("data", &disks[1].path)],
    );
    let _ = second.enrol(&world.enrolment(&[])).succeeds();
    second.start();
    world.wait_for_machine("web2", "online");

    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    for round in 0..3 {
        for disk in &disks {
            disk.scatter(50, 10 + round);
        }
        let jobs = ["web1", "web2"].map(|machine| world.start_backup(machine));
        for (number, job) in jobs.iter().enumerate() {
            let job = world.wait_for_job(job);
            assert_eq!(job["state"], "succeeded", "{job:#}");
            let copy = world.path(&format!("copy-{number}-{round}.raw"));
            disks[number].copy(&copy);
            kept.push((job["point"].as_str().unwrap().to_owned(), copy));
        }
    }

    let options = server.tool_options();
    let tool = VaultTool { vault: PathBuf::from(&place), key: world.controller.vault_key() };
    let with_options = |args: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(args.iter().copied()).collect();
        tool.run(&all).succeeds()
    };
    let listed = with_options(&["list", "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), kept.len(), "{listed:#}");
    for (point, copy) in &kept {
        world.assert_restores(point, "data", copy);
        let file = world.path("by-tool.raw");
        let _ = with_options(&["restore", "--point", point, "--to", file.to_str().unwrap()]);
        image::assert_same(copy, &file);
        fs::remove_file(&file).unwrap();
    }

    // The lines of a recovery kit say all that reaches the vault, whoever said it, but for the bucket's key.
    let mut kit = program::command("holdfast-vault");
    let programs = Path::new(kit.get_program()).parent().unwrap().to_owned();
    kit.args(["--vault", &place, "--key"]).arg(&tool.key).args(["key", "recovery-kit"]);
    kit.envs(server.variables()).envs(server.key_variables());
    let page = cli::finish("holdfast-vault key recovery-kit", kit).succeeds().stdout;
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let secret = page.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    fs::write(elsewhere.join("page.key"), secret).unwrap();
    fs::set_permissions(elsewhere.join("page.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let lines: Vec<&str> =
        page.lines().map(str::trim).filter(|line| line.starts_with("holdfast-vault ")).collect();
    let [list, restore, recipients, _remove] = lines[..] else { panic!("{page}") };
    let by_page = |line: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.current_dir(&elsewhere).env("PATH", &programs).envs(server.key_variables());
        shell.args(["-c", &line.replace(" FILE ", " page.key ")]);
        cli::finish(line, shell).succeeds().stdout
    };
    assert!(by_page(list).contains(&kept[0].0));
    assert!(by_page(recipients).contains("recovery kit"));
    let _ = by_page(&restore.replace(" MACHINE@latest ", " web1@latest ").replace(" NAME ", " data "));
    image::assert_same(&kept[4].1, &elsewhere.join("disk.raw"));

    // A second `init` opens what is there; a controller that is told of a bucket that is not says so.
    let data = world.path("controller-3");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("controller.toml"), server.vault_table("s3://holdfast-has-no-such-bucket")).unwrap();
    let output =
        program::command("holdfast-controller").args(["init", "--data-dir"]).arg(&data).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("there is no such bucket") && error.contains("make the bucket"), "{error}");
    let again = program::command("holdfast-controller")
        .args(["init", "--data-dir"])
        .arg(world.path("controller"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && told.contains(&format!("kept {place} (vault ")), "{again:?}");
}

/// One that is killed after it took the name of a point, and before that is stored.
#[test]
fn a_server_that_takes_names_twice_holds_a_vault_whose_names_are_in_the_database() {
    let Some(server) = S3Server::start_careless(
        "a_server_that_takes_names_twice_holds_a_vault_whose_names_are_in_the_database",
    ) else {
        return;
    };
    let place = server.new_place();
    let folder = World::folder_with(&server.vault_table(&place));
    let data = folder.path().join("controller");
    let init = |options: &[&str]| {
        let mut command = program::command("holdfast-controller");
        command.args(["init", "--data-dir"]).arg(&data).args(options).output().unwrap()
    };
    let refused = init(&[]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("--names-in-database"), "{error}");
    let made = init(&["--names-in-database"]);
    assert!(made.status.success(), "{made:?}");

    let mut world = World::start_in(folder, Postgres::shared(), &[]);
    let disk = Image::random(&world.path("disk.raw"), 40 * MIB + 77, 1);
    let _agent = world.running_agent("web1", &[("data", &disk.path)]);
    let first = world.path("first.raw");
    disk.copy(&first);
    let mut points = vec![(world.back_up("web1"), first)];

    // Killed with the name of the point taken and nothing stored under it: the point is there nevertheless.
    disk.scatter(50, 2);
    world.controller.kill();
    world.controller.start_with("engine::name_claimed=2*off->1*return");
    let job = world.start_backup("web1");
    world.controller.wait_for_crash("engine::name_claimed", Duration::from_secs(60));
    world.controller.start();
    let job = world.wait_for_job(&job);
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let second = world.path("second.raw");
    disk.copy(&second);
    points.push((job["point"].as_str().unwrap().to_owned(), second));

    let options = server.tool_options();
    let tool = VaultTool { vault: PathBuf::from(&place), key: world.controller.vault_key() };
    let run = |args: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(args.iter().copied()).collect();
        tool.run(&all)
    };
    for (point, copy) in &points {
        world.assert_restores(point, "data", copy);
        let file = world.path("by-tool.raw");
        let _ = run(&["restore", "--point", point, "--to", file.to_str().unwrap()]).succeeds();
        image::assert_same(copy, &file);
        fs::remove_file(&file).unwrap();
    }
    let key_file = world.path("spare.key");
    let add = ["key", "add", "--label", "spare", "--new-key-file", key_file.to_str().unwrap()];
    let refused = run(&add);
    assert!(refused.code == 1 && refused.stderr.contains("--alone"), "{refused:?}");
    assert!(!key_file.try_exists().unwrap());
    let _ = run(&["--alone"].iter().chain(&add).copied().collect::<Vec<_>>()).succeeds();
    let spare = VaultTool { key: key_file, ..tool };
    let list: Vec<&str> = options.iter().map(String::as_str).chain(["list", "-o", "json"]).collect();
    assert_eq!(spare.run(&list).succeeds().json().as_array().unwrap().len(), points.len());
}

/// Whoever has the bucket's key, such as somebody who has taken the controller over.
#[test]
fn what_is_locked_outlives_whoever_has_the_buckets_key() {
    let Some(server) =
        S3Server::start_with_object_lock("what_is_locked_outlives_whoever_has_the_buckets_key")
    else {
        return;
    };
    let place = server.new_place();
    let folder = World::folder_with(&server.vault_table(&place));
    // With versions Ceph lets a name be taken twice. What is there is kept afterwards.
    let mut init = program::command("holdfast-controller");
    init.args(["init", "--data-dir"]).arg(folder.path().join("controller")).args(server.init_options());
    let made = init.output().unwrap();
    assert!(made.status.success(), "no vault is made with {:?}: {made:?}", server.init_options());
    let mut world = World::start_in(folder, Postgres::shared(), &[]);
    let disk = Image::random(&world.path("disk.raw"), 24 * MIB + 77, 1);
    let _agent = world.running_agent("web1", &[("data", &disk.path)]);
    let mut points = Vec::new();
    for round in 0..3 {
        disk.scatter(50, 10 + round);
        let point = world.back_up("web1");
        let copy = world.path(&format!("copy-{round}.raw"));
        disk.copy(&copy);
        points.push((point, copy));
    }

    let (locked, copy) = &points[1];
    assert_eq!(world.point(locked)["retention"], serde_json::Value::Null);
    let told = world.cli.run(&["point", "lock", locked, "--for", "1h"]).succeeds().stdout;
    assert!(told.contains("enforced by the storage (governance until 20"), "{told}");
    let shown = world.point(locked);
    assert_eq!(shown["retention"]["mode"], "governance");
    assert!(shown["retention"]["until"].as_str() >= shown["lock"]["until"].as_str(), "{shown:#}");
    // What can still be taken back is not made such that nobody can.
    let (later, _) = &points[2];
    let told =
        world.cli.run(&["point", "lock", later, "--for", "1h", "--mode", "compliance"]).succeeds().stdout;
    assert!(told.contains("compliance lock until") && told.contains("not enforced by the storage"), "{told}");

    assert!(world.controller.stop().success());
    let (refused, deleted) = server.ravage(&place);
    assert!(refused >= 5 && deleted >= 5, "{refused} refused, {deleted} deleted");
    let options = server.tool_options();
    let tool = VaultTool { vault: PathBuf::from(&place), key: world.controller.vault_key() };
    let with_options = |args: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(args.iter().copied()).collect();
        tool.run(&all)
    };
    let gone = with_options(&["list"]);
    assert!(gone.code != 0 && gone.stderr.contains("there is no vault here"), "{gone:?}");

    server.remove_markers(&place);
    let file = world.path("by-tool.raw");
    let _ = with_options(&["restore", "--point", locked, "--to", file.to_str().unwrap()]).succeeds();
    image::assert_same(copy, &file);
    world.controller.start();
    world.assert_restores(locked, "data", copy);
}
