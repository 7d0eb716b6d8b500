use std::fs;
use std::time::Duration;

use clap::Parser as _;

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
    assert_eq!(config.folders.vault, Path::new("/flag/vault"));
    assert_eq!(config.database_url, "postgres://flag");
    assert_eq!(config.agents.to_string(), "0.0.0.0:1");
    assert_eq!(config.operators, OPERATORS);
    assert_eq!(config.hosts, ["a.example"]);
    assert_eq!(config.timing.heartbeat, Duration::from_secs(2));
    assert_eq!(config.timing.resolve, Duration::from_secs(30));
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
