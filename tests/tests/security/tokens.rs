//! Enrolment tokens: where they go, and how one that leaked is ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use holdfast_tests::agent::Enrolment;
use holdfast_tests::{Cli, World};
use serde_json::{Value, json};

use crate::{assert_enrol_refused, unchanged};

#[test]
fn a_token_goes_to_a_file_of_its_own_and_from_there_to_the_agent() {
    let world = World::start();
    let mut agent = world.running_agent("web1", &[]);
    agent.stop();
    let file = world.path("token");
    let to = file.to_str().unwrap();

    // Nothing is left of what failed.
    let nobody = Cli { address: "https://127.0.0.1:1".to_owned(), ..world.cli.clone() };
    let _ = nobody.run(&["token", "create", "--to", to]).fails(1, "unreachable");
    unchanged(&world, || {
        world.cli.run(&["token", "create", "--machine", "web9", "--to", to]).fails(1, "machine_not_found")
    });
    assert!(!file.try_exists().unwrap());
    let nowhere = world.path("no/such/folder");
    unchanged(&world, || {
        world.cli.run(&["token", "create", "--to", nowhere.to_str().unwrap()]).fails(1, "target_failed")
    });

    let made = world.cli.run(&["token", "create", "--machine", "web1", "--to", to]).succeeds();
    let token = fs::read_to_string(&file).unwrap();
    assert!(token.starts_with("hft_") && token.trim().len() == 68, "{token}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!made.stdout.contains("hft_"), "{made:?}");
    // What it prints is what has to be typed on that machine.
    assert!(made.stdout.contains("--force --name web1 --token-file token --ca-fingerprint"), "{made:?}");
    let by_id = world.machine("web1")["id"].as_str().unwrap().to_owned();
    let shown = world.cli.run(&["token", "create", "--machine", &by_id]).succeeds().stdout;
    assert!(shown.contains("--force --name web1 --token hft_"), "{shown}");
    let plain = world.cli.run(&["token", "create"]).succeeds().stdout;
    assert!(!plain.contains("--force") && plain.contains("--token hft_"), "{plain}");

    // One that is there stays as it is, whoever would be asked.
    for cli in [&world.cli, &nobody] {
        unchanged(&world, || cli.run(&["token", "create", "--to", to]).fails(1, "target_exists"));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), token);

    // What is printed for people is no token.
    let enrolment = |token: String| Enrolment { token, ca_file: world.controller.ca_file() };
    unchanged(&world, || {
        assert_enrol_refused(
            &agent.enrol_again(&enrolment(plain.clone())),
            "holdfast token create --to FILE",
        );
    });
    let _ = agent.enrol_again(&enrolment(token)).succeeds();
    agent.start();
    world.wait_for_machine("web1", "online");
}

#[test]
fn a_leaked_token_is_found_and_ended() {
    let world = World::start();
    let made = world.cli.json(&["token", "create", "--uses", "100", "--ttl", "7d", "--label", "env=prod"]);
    let id = made["id"].as_str().unwrap();
    let leaked =
        Enrolment { token: made["token"].as_str().unwrap().to_owned(), ca_file: world.controller.ca_file() };
    let mut agent = world.new_agent("web1", &[]);
    let _ = agent.enrol(&leaked).succeeds();
    let short = world.cli.json(&["token", "create", "--machine", "web1"]);

    let listed = world.cli.json(&["token", "list"]);
    let row = listed.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(
        (&row["state"], &row["created_by"], &row["uses_left"], &row["labels"], &row["machine"]),
        (&json!("usable"), &json!("operator"), &json!(99), &json!({"env": "prod"}), &Value::Null),
        "{listed:#}"
    );
    assert_eq!(listed[0]["id"], short["id"], "newest first: {listed:#}");
    assert_eq!(listed[0]["machine"], "web1");
    assert!(!listed.to_string().contains(&leaked.token));

    let viewer = world.cli_with_key(world.controller.create_api_key("watcher", "viewer"));
    for command in [&["token", "list"] as &[&str], &["token", "revoke", id]] {
        unchanged(&world, || viewer.run(command).fails(1, "role_too_low"));
    }
    let _ = world.cli.run(&["token", "revoke", "000000000000"]).fails(1, "token_not_found");

    let revoked = world.cli.json(&["token", "revoke", id]);
    assert_eq!((&revoked["state"], &revoked["uses"]), (&json!("revoked"), &json!(1)), "{revoked:#}");
    let again = world.cli.run(&["token", "revoke", id]).succeeds().stdout;
    assert!(again.contains("was revoked already"), "{again}");
    assert_eq!(world.cli.json(&["token", "revoke", id]), revoked);
    // Whoever has nothing but what leaked.
    assert_eq!(world.cli.json(&["token", "revoke", &leaked.token]), revoked);
    let stranger = world.new_agent("web2", &[]);
    unchanged(&world, || {
        let refused = stranger.enrol(&leaked);
        assert_enrol_refused(&refused, "was revoked (token_revoked)");
        assert!(refused.stderr.contains("holdfast token create"), "{refused:?}");
    });
    let states = |args: &[&str]| -> Vec<Value> {
        let listed = world.cli.json(&[&["token", "list"], args].concat());
        listed.as_array().unwrap().iter().map(|row| row["state"].clone()).collect()
    };
    assert_eq!(states(&[]), ["usable"]);
    assert_eq!(states(&["--all"]), ["usable", "revoked"]);
    // Whoever enrolled with it goes on.
    agent.start();
    world.wait_for_machine("web1", "online");

    // The guide's way to find those.
    let told =
        documented("FROM audit").into_iter().flat_map(|sql| world.database.texts(&sql.replace("ID", id)));
    let told: Vec<_> = told.collect();
    assert!(told.iter().any(|name| name == "web1"), "{told:?}");
    assert!(told.len() > 4, "the last changes: {told:?}");
}

/// What the operator's guide has to be typed into psql, of those statements that have this in them.
fn documented(what: &str) -> Vec<String> {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md")).unwrap();
    let statements = guide.split("psql \"$HOLDFAST_DATABASE_URL\" -c \"").skip(1);
    let statements: Vec<String> = statements
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .filter(|sql| sql.contains(what))
        .collect();
    assert_eq!(statements.len(), 2, "{statements:?}");
    statements
}
