use std::fs;
use std::time::Duration;

use clap::Parser as _;
use holdfast_vault_engine::S3ObjectLock;

use super::*;

fn serve(words: &[&str]) -> Result<ServeConfig, ConfigError> {
    let words = ["holdfast-controller", "serve"].iter().chain(words);
    let cli = Cli::try_parse_from(words).unwrap();
    let Command::Serve(command) = cli.command else { panic!("not serve") };
    ServeConfig::resolve(cli.config.as_deref(), command)
}

fn written(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn flags_beat_the_file_and_the_file_beats_the_default() {
    let (_dir, path) = written(
        "data_dir = \"/file\"\ndatabase_url = \"postgres://file\"\nagents = \"0.0.0.0:1\"\nhost = [\"a.example\"]\n\
         [timing]\nheartbeat = \"2s\"\nagent_lost_after = \"20s\"\n",
    );
    let config =
        serve(&["--config", &path, "--data-dir", "/flag", "--database-url", "postgres://flag"]).unwrap();
    assert_eq!(config.folders.data, Path::new("/flag"));
    assert_eq!(config.folders.vault, VaultPlace::Directory("/flag/vault".into()));
    assert_eq!(config.database_url, "postgres://flag");
    assert_eq!(config.agents.to_string(), "0.0.0.0:1");
    assert_eq!(config.operators, OPERATORS);
    assert_eq!(config.hosts, ["a.example"]);
    assert_eq!(config.timing.heartbeat, Duration::from_secs(2));
    assert_eq!(config.timing.resolve, Duration::from_secs(30));
}

/// What is given out the gateway has to take, and what comes from another controller that died as well.
#[test]
fn the_gateway_takes_what_is_given_out() {
    let (_dir, path) = written("[limits]\ntransfers = 128");
    let config = serve(&["--config", &path, "--data-dir", "/d", "--database-url", "postgres://x"]).unwrap();
    assert_eq!((config.limits.transfers, config.limits.gateway_transfers()), (128, 256));
}

#[test]
fn the_data_directory_may_hold_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let words = ["--data-dir", data_dir, "--database-url", "postgres://x"];
    assert_eq!(serve(&words).unwrap().hosts, Vec::<String>::new());
    fs::write(dir.path().join(CONFIG_FILE), "host = [\"b.example\"]").unwrap();
    assert_eq!(serve(&words).unwrap().hosts, ["b.example"]);
    let error = serve(&["--config", "/nowhere/c.toml", "--data-dir", data_dir]).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error:?}");
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("hosts = []", "hosts"),
        ("[timing]\nheart_beat = \"1s\"", "heart_beat"),
        ("[timing]\nheartbeat = 15", "a duration is a text"),
        ("[timing]\nheartbeat = \"15\"", "is no duration"),
        ("agents = \"here\"", "invalid socket address"),
    ];
    for (text, word) in cases {
        let (_dir, path) = written(text);
        let error =
            serve(&["--config", &path, "--data-dir", "/d", "--database-url", "postgres://x"]).unwrap_err();
        let ConfigError::Parse { source, .. } = error else { panic!("{text}: {error:?}") };
        assert!(source.to_string().contains(word), "{text}: {source}");
    }
    for (text, name) in [
        ("[timing]\ndispatch = \"0s\"", "dispatch"),
        ("[timing]\nheartbeat = \"40s\"", "agent_lost_after"),
        ("[timing]\nresolve = \"400d\"", "resolve"),
        ("[timing]\nstalled_after = \"0s\"", "stalled_after"),
        ("[timing]\ncertificate_lifetime = \"10ms\"", "certificate_lifetime"),
    ] {
        let (_dir, path) = written(text);
        let error =
            serve(&["--config", &path, "--data-dir", "/d", "--database-url", "postgres://x"]).unwrap_err();
        assert!(
            matches!(error, ConfigError::Timing { name: found, .. } if found == name),
            "{text}: {error:?}"
        );
    }
    let (_dir, path) = written("database_url = \"postgres://x\"");
    assert!(matches!(serve(&["--config", &path]).unwrap_err(), ConfigError::Missing { .. }));
    let same = ["--data-dir", "/d", "--database-url", "x", "--agents", "[::1]:5", "--operators", "[::1]:5"];
    assert!(matches!(serve(&same).unwrap_err(), ConfigError::SameAddress { .. }));
}

#[test]
fn the_password_of_the_database_stays_out_of_logs() {
    let config = serve(&["--data-dir", "/d", "--database-url", "postgres://u:secret@h/d"]).unwrap();
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_vault_is_a_folder_or_in_s3() {
    let place = |text: &str| {
        let (_dir, path) = written(text);
        serve(&["--config", &path, "--data-dir", "/d", "--database-url", "x"])
            .map(|config| config.folders.vault)
    };
    assert_eq!(place("vault = \"/srv/vault\"").unwrap(), VaultPlace::Directory("/srv/vault".into()));
    assert_eq!(place("vault = \"s3://b/holdfast\"").unwrap(), VaultPlace::parse("s3://b/holdfast").unwrap());
    let whole = "[vault]\nurl = \"s3://b/p\"\nendpoint = \"https://s3.example\"\nregion = \"eu\"\npath_style = false\n\
        allow_http = true\nca_file = \"/ca\"\naccess_key_id_file = \"/i\"\nsecret_access_key_file = \"/s\"\n\
        requests_in_flight = 8\nrequests_per_second = 100\nbytes_per_second = 1000000\nrequest_timeout = \"30s\"\n\
        retry_for = \"1m\"\nobject_lock = true\n";
    let VaultPlace::S3(s3) = place(whole).unwrap() else { panic!("no S3") };
    assert_eq!(
        (s3.location.to_string().as_str(), s3.endpoint.as_deref()),
        ("s3://b/p", Some("https://s3.example"))
    );
    assert_eq!(s3.limits.bytes_per_second.unwrap().get(), 1_000_000);
    assert_eq!(s3.limits.retry_for, Duration::from_secs(60));
    assert_eq!(s3.object_lock, S3ObjectLock::Required);
    let VaultPlace::S3(s3) = place("[vault]\nurl = \"s3://b\"").unwrap() else { panic!("no S3") };
    assert_eq!(s3.object_lock, S3ObjectLock::Unused);
    for (text, word) in [
        ("vault = \"s3://\"", "s3://bucket/prefix"),
        ("[vault]\nendpoint = \"https://s3.example\"", "url"),
        ("[vault]\nurl = \"/srv/vault\"", "s3://"),
        ("[vault]\nurl = \"/srv/vault\"\nobject_lock = true", "a folder enforces no locks"),
        ("[vault]\nurl = \"s3://b\"\nend_point = \"x\"", "end_point"),
        ("[vault]\nurl = \"s3://b\"\naccess_key_id_file = \"/i\"", "go together"),
        ("[vault]\nurl = \"s3://b\"\nrequests_in_flight = 0", "nonzero"),
        ("[vault]\nurl = \"s3://b\"\nretry_for = \"5m\"", "at most 4m"),
        ("[vault]\nurl = \"s3://b\"\nrequest_timeout = \"0s\"", "1s to 10m"),
    ] {
        let ConfigError::Parse { source, .. } = place(text).unwrap_err() else { panic!("{text}") };
        assert!(source.to_string().contains(word), "{text}: {source}");
    }
}

#[test]
fn what_the_documentation_calls_is_there() {
    documented::assert_calls_parse("holdfast-controller", 4, Cli::try_parse_from);
}
