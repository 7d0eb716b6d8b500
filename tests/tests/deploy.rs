//! What is in `deploy/`: the agent's unit under a systemd of its own, in namespaces of its own, and the private Postgres.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use holdfast_tests::{is_root_or_skips, skip};

/// In place of the agent: its watchdog is deaf to signals and has a session of its own, as the real one.
const AGENT: &str = r#"#!/bin/sh
setsid sh -c 'trap "" TERM HUP INT; echo $$ >HERE/watchdog.new; mv HERE/watchdog.new HERE/watchdog; sleep 60' &
exec sleep 600
"#;

/// Runs as root in new namespaces of mounts and processes. Exits with 77 and a reason where systemd cannot run.
const TRY: &str = r#"
set -u
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || { echo 'cannot mount'; exit 77; }
# With both versions of control groups systemd uses both.
groups=
for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ ! -e $root/cgroup.procs ] || groups="$groups $root/$(basename HERE)"
done
mkdir $groups || { echo 'cannot make a control group'; exit 77; }
export XDG_RUNTIME_DIR=HERE/run SYSTEMD_UNIT_PATH=HERE/units:
sh -c 'for group in "$@"; do echo $$ >$group/cgroup.procs || exit; done; exec /lib/systemd/systemd --user --log-target=console' sh $groups >HERE/systemd.log 2>&1 &
manager=$!
eventually() {
    for _ in $(seq 150); do ! "$@" || return 0; sleep 0.1; done
    return 1
}
is_ready() { systemctl --user show -p Version >/dev/null 2>&1; }
is_gone() { ! systemctl --user is-active -q holdfast-agent; }
began() { rm -f HERE/watchdog; systemctl --user start holdfast-agent && eventually test -s HERE/watchdog; }
tell() { sleep 0.5; kill -0 "$(cat HERE/watchdog)" 2>/dev/null && echo "$1: the watchdog lives" || echo "$1: the watchdog was killed"; }
if ! eventually is_ready; then echo "systemd does not run: $(tail -n 3 HERE/systemd.log)"; result=77
else
    began && systemctl --user stop holdfast-agent && tell stopped
    began && kill -KILL "$(systemctl --user show -p MainPID --value holdfast-agent)" && eventually is_gone && tell killed
    result=0
fi
kill -KILL $manager
end() {
    for pid in $(find $groups -name cgroup.procs -exec cat {} + 2>/dev/null); do [ "$pid" -le 1 ] || kill -KILL "$pid"; done
    find $groups -depth -type d -exec rmdir {} \; 2>/dev/null
    for group in $groups; do [ ! -e "$group" ] || return 1; done
}
eventually end
exit $result
"#;

fn try_unit(unit: &str) -> Option<Output> {
    let dir = tempfile::Builder::new().prefix("hf-service-").tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    fs::create_dir(dir.path().join("units")).unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    let agent = dir.path().join("agent");
    fs::write(&agent, AGENT.replace("HERE", at)).unwrap();
    let begin = unit.find("ExecStart=").unwrap();
    let end = begin + unit[begin..].find('\n').unwrap();
    let unit = format!("{}ExecStart=/bin/sh {}{}", &unit[..begin], agent.display(), &unit[end..]);
    fs::write(dir.path().join("units/holdfast-agent.service"), unit).unwrap();
    let tried = Command::new("unshare")
        .args(["--fork", "--pid", "--mount", "--mount-proc", "--kill-child", "sh", "-c"])
        .arg(TRY.replace("HERE", at))
        .output();
    match tried {
        Ok(output) if output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare:") => {
            Some(output)
        }
        other => {
            skip(format_args!("systemd cannot be run here: {other:?}"));
            None
        }
    }
}

#[test]
fn the_watchdog_outlives_the_agent_under_systemd() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy");
    let unit = fs::read_to_string(deploy.join("holdfast-agent.service")).unwrap();
    assert!(unit.lines().any(|line| line == "KillMode=process"), "{unit}");
    let Some(output) = try_unit(&unit) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "stopped: the watchdog lives\nkilled: the watchdog lives\n", "{output:?}");
}

#[test]
fn the_user_of_postgres_cannot_have_root_write_elsewhere() {
    if !is_root_or_skips("the_user_of_postgres_cannot_have_root_write_elsewhere") {
        return;
    }
    let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    let parent = tempfile::Builder::new().prefix("hf-pg-").permissions(permissions).tempdir().unwrap();
    let (precious, folder) = (parent.path().join("precious"), parent.path().join("c"));
    fs::write(&precious, "roots").unwrap();
    let script = |verb: &str| {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/private-postgres");
        // Nothing here waits for what stays running.
        let status = Command::new(program).arg(verb).arg(&folder).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{verb}");
    };
    script("start");
    script("stop");
    for name in [".lock", "postgres.log", "initdb.log"] {
        let _ = fs::remove_file(folder.join(name));
        symlink(&precious, folder.join(name)).unwrap();
    }
    script("start");
    script("stop");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "roots");
}
