use super::*;

const MINIMAL: &str =
    "controller = \"https://controller.example:7443\"\nstate_dir = \"/var/lib/holdfast-agent\"\n";

fn load(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).map_err(|error| crate::error::chain(&error))
}

#[test]
fn the_documented_file_loads_with_its_defaults() {
    let config = load(&format!("{MINIMAL}[[disk]]\nname = \"data\"\npath = \"/srv/vm/data.raw\"\n")).unwrap();
    assert_eq!(config.controller.0.to_string(), "controller.example:7443");
    assert_eq!(config.disks[0].name, "data");
    assert!(config.discover);
    assert_eq!((config.upload_streams, config.compression_level), (2, 1));
    assert_eq!(config.timing.reconnect_max, Duration::from_secs(60));
}

#[test]
fn every_mistake_is_named() {
    for (text, word) in [
        ("state_dir = \"/s\"\n".to_owned(), "controller"),
        (format!("{MINIMAL}colour = 1\n"), "colour"),
        (format!("{MINIMAL}[timing]\nreconnect = \"1s\"\n"), "reconnect"),
        (format!("{MINIMAL}[timing]\ndisk_poll = \"soon\"\n"), "soon"),
        (format!("{MINIMAL}[timing]\nreconnect_min = \"2m\"\n"), "reconnect_min"),
        (format!("{MINIMAL}[snapshot]\nfreeze_limit = \"11s\"\n"), "freeze_limit"),
        (format!("{MINIMAL}[snapshot]\nmax_extents = 0\n"), "max_extents"),
        (format!("{MINIMAL}[hooks]\nafter_thaw = \"thaw.sh\"\n"), "thaw.sh"),
        (format!("{MINIMAL}[hooks]\non_failure = \"ignore\"\n"), "ignore"),
        (format!("{MINIMAL}upload_streams = 0\n"), "upload_streams"),
        (format!("{MINIMAL}compression_level = 23\n"), "compression_level"),
        (format!("{MINIMAL}allowed_gateways = [\"a b\"]\n"), "a b"),
        (format!("{MINIMAL}[[disk]]\nname = \"a/b\"\npath = \"/x\"\n"), "a/b"),
        (format!("{MINIMAL}[[disk]]\nname = \"-a\"\npath = \"/x\"\n"), "-a"),
        (format!("{MINIMAL}[[disk]]\nname = \"a\"\npath = \"x.raw\"\n"), "x.raw"),
        (
            format!(
                "{MINIMAL}[[disk]]\nname = \"a\"\npath = \"/x\"\n[[disk]]\nname = \"a\"\npath = \"/y\"\n"
            ),
            "two disks",
        ),
        (MINIMAL.replace("https", "http"), "https://HOST:PORT"),
        (MINIMAL.replace(":7443", ""), "https://HOST:PORT"),
        (MINIMAL.replace("/var/lib", "var/lib"), "state_dir"),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.contains(word), "{error:?} does not name {word:?}");
        assert!(error.contains("agent.toml"), "{error:?} does not name the file");
    }
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let error = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
    assert!(crate::error::chain(&error).contains("/nonexistent/agent.toml"));
}

#[test]
fn only_the_controllers_host_and_named_gateways_get_data() {
    let config =
        load(&format!("{MINIMAL}allowed_gateways = [\"gw1\", \"gw2:9000\", \"[::1]:1\"]\n")).unwrap();
    for (gateway, allowed) in [
        ("controller.example:1", true),
        ("gw1:5", true),
        ("gw2:9000", true),
        ("gw2:9001", false),
        ("[::1]:1", true),
        ("[::1]:2", false),
        ("evil.example:7443", false),
        ("controller.example.evil:7443", false),
    ] {
        assert_eq!(config.allows_gateway(&gateway.parse().unwrap()), allowed, "{gateway}");
    }
}
