//! `agent.toml`, and addresses of gateways as a controller dispatches them: what is taken keeps its limits.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the agent's own files")]

mod address;
mod config;
mod duration;
mod snapshot;

use std::fs;

use address::Address;
use config::{Config, is_disk_name};
use holdfast_fuzz::vault::scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The last line is what a controller says.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, gateway) = text.rsplit_once('\n').unwrap_or((text, text));
    let gateway = gateway.parse::<Address>().ok();
    if let Some(gateway) = &gateway {
        assert_eq!(gateway.to_string().parse::<Address>().as_ref(), Ok(gateway), "an address has one form");
        assert!(gateway.port != 0 && !gateway.host.is_empty());
    }
    let path = scratch("config").join("agent.toml");
    fs::write(&path, file).expect("it can be written");
    let Ok(config) = Config::load(&path) else { return };
    assert!(config.state_dir.is_absolute() && (1..=8).contains(&config.upload_streams));
    assert!(config.timing.reconnect_min <= config.timing.reconnect_max);
    assert!(config.snapshot.freeze_limit <= snapshot::watchdog::FREEZE_LIMIT_MAX);
    assert!(config.disks.iter().all(|disk| is_disk_name(&disk.name) && disk.path.is_absolute()));
    let hooks = &config.hooks;
    let paths = [&hooks.before_snapshot, &hooks.after_thaw, &hooks.after_snapshot];
    assert!(paths.into_iter().flatten().all(|path| path.is_absolute()), "hooks are found without a search");
    assert!(config.allows_gateway(&config.controller.0));
    if let Some(gateway) = gateway
        && config.allowed_gateways.is_empty()
    {
        assert_eq!(config.allows_gateway(&gateway), gateway.host == config.controller.0.host);
    }
});
