use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::testing::hook_dir::HookDir;

fn hooks(dir: &HookDir, timeout: Duration) -> Hooks {
    let config = HooksConfig { timeout, ..HooksConfig::default() };
    Hooks::new(config, "web1".to_owned(), dir.path().to_owned())
}

async fn run(dir: &HookDir, body: &str, timeout: Duration) -> Result<(), HookError> {
    let program = Program::open(Hook::AfterThaw, &dir.script("hook", body)).unwrap();
    hooks(dir, timeout).wake(&program, SnapshotId::generate()).await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_hook_sees_its_environment_and_nothing_else() {
    let Some(dir) = HookDir::new() else { return };
    let out = dir.path().join("out");
    let body = format!("env > {0}; echo \"args: $# in $PWD\" >> {0}", out.display());
    let program = Program::open(Hook::BeforeSnapshot, &dir.script("hook", &body)).unwrap();
    let id = SnapshotId::generate();
    let hooks = hooks(&dir, LONG);
    hooks.quiesce(&program, id, &CancellationToken::new()).await.unwrap();
    let seen = std::fs::read_to_string(&out).unwrap();
    for expected in [
        "HOLDFAST_HOOK=before_snapshot",
        &format!("HOLDFAST_SNAPSHOT_ID={id}"),
        "HOLDFAST_MACHINE=web1",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "args: 0 in /",
    ] {
        assert!(seen.lines().any(|line| line == expected), "{expected} is not in {seen}");
    }
    // The shell adds PWD, OLDPWD, SHLVL and _ itself.
    let foreign = seen.lines().find(|line| {
        !["HOLDFAST_", "PATH=", "PWD=", "OLDPWD=", "SHLVL=", "_=", "args: "]
            .iter()
            .any(|known| line.starts_with(known))
    });
    assert_eq!(foreign, None);
}

#[tokio::test]
async fn what_was_checked_is_what_runs() {
    let Some(dir) = HookDir::new() else { return };
    let path = dir.script("hook", "exit 0");
    let program = Program::open(Hook::AfterThaw, &path).unwrap();
    dir.script("other", "exit 9");
    std::fs::rename(dir.path().join("other"), &path).unwrap();
    hooks(&dir, LONG).wake(&program, SnapshotId::generate()).await.unwrap();

    // No script at all.
    std::fs::copy("/bin/true", &path).unwrap();
    let program = Program::open(Hook::AfterThaw, &path).unwrap();
    hooks(&dir, LONG).wake(&program, SnapshotId::generate()).await.unwrap();
}

#[tokio::test]
async fn a_hook_that_fails_says_why() {
    let Some(dir) = HookDir::new() else { return };
    let error = run(&dir, "echo no database here >&2; exit 3", LONG).await.unwrap_err();
    let detail = error.detail();
    assert_eq!(detail.code, "hook_failed");
    assert!(detail.message.contains("no database here") && detail.message.contains('3'), "{detail:?}");
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_all_that_it_started() {
    let Some(dir) = HookDir::new() else { return };
    let pids = dir.path().join("pids");
    let body = format!(
        "trap '' TERM; sleep 300 & echo $! >> {0}; echo $$ >> {0}; echo waiting; while :; do sleep 1; done",
        pids.display()
    );
    let began = Instant::now();
    let error = run(&dir, &body, Duration::from_secs(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let detail = error.detail();
    assert_eq!(detail.code, "hook_timed_out");
    assert!(detail.message.contains("waiting"), "{detail:?}");
    let text = std::fs::read_to_string(&pids).unwrap();
    assert_eq!(text.lines().count(), 2);
    for pid in text.lines() {
        let began = Instant::now();
        // A child of the shell is collected by whoever takes orphans; it may be a zombie for a moment.
        while is_alive(pid) {
            assert!(began.elapsed() < Duration::from_secs(5), "{pid} is alive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

#[tokio::test]
async fn a_hook_that_says_much_does_not_hang_and_its_last_words_are_kept() {
    let Some(dir) = HookDir::new() else { return };
    let body = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo the end >&2; exit 1";
    let detail = run(&dir, body, LONG).await.unwrap_err().detail();
    assert_eq!(detail.code, "hook_failed");
    assert!(detail.message.ends_with("the end") && detail.message.len() < 2000, "{}", detail.message.len());
}

#[tokio::test]
async fn something_left_running_is_not_waited_for() {
    let Some(dir) = HookDir::new() else { return };
    let pid = dir.path().join("pid");
    let began = Instant::now();
    run(&dir, &format!("sleep 300 & echo $! > {}", pid.display()), LONG).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A lock may be held that way: it lives on.
    let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_application_that_could_not_be_woken_is_woken_later_but_not_during_a_snapshot() {
    let Some(dir) = HookDir::new() else { return };
    let (runs, ready) = (dir.path().join("runs"), dir.path().join("ready"));
    let thaw = dir.script("thaw", &format!("echo >> {}; [ -e {} ]", runs.display(), ready.display()));
    let before = Program::open(Hook::BeforeSnapshot, &dir.script("before", "")).unwrap();
    let marks = tempfile::tempdir().unwrap();
    let config = HooksConfig { after_thaw: Some(thaw), timeout: LONG, ..HooksConfig::default() };
    let mut hooks = Hooks::new(config, "web1".to_owned(), marks.path().to_owned());
    hooks.retries = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
    let stop = CancellationToken::new();
    let runs = || std::fs::read_to_string(&runs).unwrap_or_default().lines().count();

    // Left by an earlier process, and not woken at once.
    hooks.quiesce(&before, SnapshotId::generate(), &stop).await.unwrap();
    let task = tokio::spawn(hooks.clone().keep_awake(stop.clone()));
    wait_for("it is not tried again", || runs() >= 3).await;
    assert_eq!(hooks.left().len(), 1);

    // Another one has the application quiesced.
    let turn = hooks.turn().await;
    hooks.quiesce(&before, SnapshotId::generate(), &stop).await.unwrap();
    std::fs::write(&ready, b"").unwrap();
    let before = runs();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((runs(), hooks.left().len()), (before, 2), "woken in the middle of a snapshot");
    // It could not wake it either.
    drop(turn);
    wait_for("nobody woke it", || hooks.left().is_empty()).await;
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn what_others_could_have_written_is_refused() {
    let Some(dir) = HookDir::new() else { return };
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = |path: &Path, why: &str| {
        let detail = Program::open(Hook::BeforeSnapshot, path).unwrap_err().detail();
        assert_eq!(detail.code, "hook_refused");
        assert!(detail.message.contains(why), "{detail:?}");
    };
    let path = dir.script("hook", "exit 0");
    Program::open(Hook::BeforeSnapshot, &path).unwrap();
    for wrong in [0o757, 0o775, 0o1777] {
        mode(&path, wrong);
        refused(&path, "written by others");
    }
    mode(&path, 0o644);
    refused(&path, "not executable");
    mode(&path, 0o755);
    refused(dir.path(), "no regular file");
    refused(&dir.path().join("missing"), "cannot open");
    refused(&dir.path().join("../etc/passwd"), "..");

    symlink(&path, dir.path().join("link")).unwrap();
    refused(&dir.path().join("link"), "symbolic link");
    let below = dir.path().join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::rename(&path, below.join("hook")).unwrap();
    Program::open(Hook::BeforeSnapshot, &below.join("hook")).unwrap();
    symlink(&below, dir.path().join("way")).unwrap();
    refused(&dir.path().join("way/hook"), "symbolic link");
    for wrong in [0o777, 0o770] {
        mode(&below, wrong);
        refused(&below.join("hook"), "written by others");
    }
    if rustix::process::geteuid().is_root() {
        // As /tmp is: whoever was there first would be its owner, which is looked at next.
        mode(&below, 0o1777);
        Program::open(Hook::BeforeSnapshot, &below.join("hook")).unwrap();
        std::os::unix::fs::chown(below.join("hook"), Some(12345), None).unwrap();
        refused(&below.join("hook"), "belongs to user 12345");
    }
}
