//! The program itself, against a vault in a directory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chrono::Utc;
use holdfast_vault_engine::{
    BLOCK_SIZE, BeginBackup, Begun, Codec, Consistency, DiskSpec, Extent, KeyFile, NewCell, Point, Storage,
    Vault,
};
use tempfile::TempDir;
use uuid::Uuid;

/// A vault with one machine: `data` of noise and holes, no whole number of blocks; `boot` of one byte.
struct Fixture {
    dir: TempDir,
    data: Vec<u8>,
    machine: Uuid,
    points: Vec<Point>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vault")).unwrap();
        let mut data = vec![0; 3_000_001];
        for (at, byte) in data.iter_mut().enumerate() {
            // Every other 400 KB is a hole.
            if (at / 400_000).is_multiple_of(2) {
                *byte = u8::try_from((at * 31 + at / 4096 * 7) % 255 + 1).unwrap();
            }
        }
        *data.last_mut().unwrap() = 9;
        let machine = Uuid::new_v4();
        let mut fixture = Self { dir, data, machine, points: Vec::new() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        fixture.points = runtime.block_on(fixture.back_up());
        fixture
    }

    async fn back_up(&self) -> Vec<Point> {
        let key = KeyFile::generate(&self.path("vault.key")).unwrap();
        let vault = Vault::create(Storage::directory(&self.path("vault")).unwrap(), &key).await.unwrap();
        let mut points = Vec::new();
        for _ in 0..2 {
            let disks = [("data", self.data.as_slice()), ("boot", &[7][..])];
            let request = BeginBackup {
                machine: self.machine,
                machine_name: "web1".to_owned(),
                snapshot_id: Uuid::new_v4(),
                step_id: Uuid::new_v4(),
                attempt: 1,
                consistency: Consistency::Crash,
                taken_at: Utc::now(),
                disks: disks
                    .iter()
                    .map(|(name, data)| DiskSpec { name: (*name).to_owned(), size_bytes: data.len() as u64 })
                    .collect(),
                at_least_seq: 0,
                damaged: Vec::new(),
            };
            let Begun::Open(backup) = vault.begin(request).await.unwrap() else {
                panic!("committed already")
            };
            for (name, data) in disks {
                let mut padded = data.to_vec();
                padded.resize(data.len().next_multiple_of(BLOCK_SIZE), 0);
                for (number, plain) in padded.chunks(131_072).enumerate() {
                    let extent = Extent {
                        first_block: number as u64 * 32,
                        block_count: (plain.len() / BLOCK_SIZE) as u64,
                    };
                    let cell = NewCell {
                        codec: Codec::Raw,
                        plain_bytes: u32::try_from(plain.len()).unwrap(),
                        extents: vec![extent],
                        data: plain.to_vec().into(),
                    };
                    backup.push(name, vec![cell], Vec::new()).await.unwrap();
                }
            }
            points.push(backup.prepare(&[]).await.unwrap().commit().await.unwrap());
        }
        points
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with("vault.key", args)
    }

    fn run_with(&self, key: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_holdfast-vault"))
            .current_dir(self.dir.path())
            .args(["--vault", "vault", "--key", key])
            .args(args)
            .output()
            .unwrap()
    }

    fn restore(&self, point: &str, disk: &str, to: &str) -> Output {
        self.run(&["restore", "--point", point, "--disk", disk, "--to", to])
    }

    /// A failure: this exit code, one line of error that contains `words`, one with the next step, no file.
    fn refused(&self, output: &Output, code: i32, words: &str, file: &str) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        if code == 1 {
            let lines: Vec<&str> = stderr.lines().collect();
            assert!(
                lines.len() == 2
                    && lines[0].starts_with("error: ")
                    && lines[1].trim_start().starts_with("next: "),
                "{stderr}"
            );
        }
        assert!(!self.path(file).exists_or_panic(), "{file} was left");
        assert!(!self.path(&format!("{file}.partial")).exists_or_panic(), "{file}.partial was left");
    }
}

trait Exists {
    fn exists_or_panic(&self) -> bool;
}

impl Exists for Path {
    fn exists_or_panic(&self) -> bool {
        self.try_exists().unwrap()
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn list_and_restore() {
    let fixture = Fixture::new();
    let output = fixture.run(&["list", "-o", "json"]);
    succeeded(&output);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let last = &listed[1];
    assert_eq!(last["id"], fixture.points[1].id.to_string());
    assert_eq!((&last["machine"], &last["state"]), (&"web1".into(), &"listed".into()));
    assert_eq!(last["consistency"], "crash");
    assert!(last["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(last["disks"][0]["name"], "data");
    assert_eq!(last["disks"][0]["size_bytes"], 3_000_001);
    for key in ["read_bytes", "changed_bytes", "sent_bytes", "stored_bytes"] {
        assert!(last["disks"][0][key].is_u64(), "{key}");
    }
    let table = String::from_utf8(fixture.run(&["list"]).stdout).unwrap();
    assert!(table.contains("web1") && table.contains(&fixture.points[0].id.to_string()), "{table}");

    let id = fixture.points[0].id.to_string();
    let by_machine_id = format!("{}@latest", fixture.machine);
    for (number, point) in [&*id, "web1@latest", &by_machine_id].into_iter().enumerate() {
        let file = format!("restored-{number}");
        succeeded(&fixture.restore(point, "data", &file));
        assert!(std::fs::read(fixture.path(&file)).unwrap() == fixture.data, "{point} came back different");
        assert!(!fixture.path(&format!("{file}.partial")).exists_or_panic());
        let metadata = std::fs::metadata(fixture.path(&file)).unwrap();
        assert!(metadata.blocks() * 512 < 2_200_000, "holes take {} bytes", metadata.blocks() * 512);
    }
    succeeded(&fixture.restore(&id, "boot", "boot"));
    assert_eq!(std::fs::read(fixture.path("boot")).unwrap(), [7]);
}

#[test]
fn existing_files() {
    let fixture = Fixture::new();
    let file = fixture.path("file");
    std::fs::write(&file, "precious").unwrap();
    let output = fixture.restore("web1@latest", "data", "file");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--overwrite"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let overwrite = ["restore", "--point", "web1@latest", "--disk", "data", "--to", "file", "--overwrite"];
    succeeded(&fixture.run(&overwrite));
    assert!(std::fs::read(&file).unwrap() == fixture.data);
    // A longer one left behind by an interrupted restore.
    std::fs::write(fixture.path("other.partial"), vec![1; 5_000_000]).unwrap();
    succeeded(&fixture.restore("web1@latest", "data", "other"));
    assert!(std::fs::read(fixture.path("other")).unwrap() == fixture.data);
    // Nothing but files is replaced, and nothing is followed.
    std::fs::create_dir(fixture.path("folder")).unwrap();
    std::os::unix::fs::symlink(&file, fixture.path("link")).unwrap();
    for to in ["folder", "link"] {
        let output =
            fixture.run(&["restore", "--point", "web1@latest", "--disk", "data", "--to", to, "--overwrite"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not a regular file"));
    }
    // Another restore holds it.
    let held = std::fs::File::create(fixture.path("held.partial")).unwrap();
    held.lock().unwrap();
    let output = fixture.restore("web1@latest", "data", "held");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another restore"));
}

#[test]
fn refusals() {
    let fixture = Fixture::new();
    let id = fixture.points[1].id.to_string();
    let no_point = Uuid::new_v4().to_string();
    fixture.refused(&fixture.restore(&no_point, "data", "out"), 1, "no point", "out");
    fixture.refused(&fixture.restore("web2@latest", "data", "out"), 1, "no machine web2", "out");
    fixture.refused(&fixture.restore("nonsense", "data", "out"), 1, "neither", "out");
    fixture.refused(&fixture.restore(&id, "tape", "out"), 1, "data, boot", "out");
    fixture.refused(&fixture.restore(&id, "data", "no/such/folder"), 1, "cannot create", "no/such/folder");
    let which = fixture.run(&["restore", "--point", &id, "--to", "out"]);
    fixture.refused(&which, 1, "several disks", "out");
    fixture.refused(&fixture.run(&["restore", "--to", "out"]), 2, "--point", "out");
    fixture.refused(&fixture.run(&["list", "-o", "xml"]), 2, "xml", "out");
    KeyFile::generate(&fixture.path("other.key")).unwrap();
    fixture.refused(&fixture.run_with("other.key", &["list"]), 1, "does not open", "out");
    std::fs::set_permissions(fixture.path("other.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let chmod = "run `chmod 600 other.key`";
    fixture.refused(&fixture.run_with("other.key", &["list"]), 1, chmod, "out");
    fixture.refused(&fixture.run_with("missing.key", &["list"]), 1, "missing.key", "out");
}

#[test]
fn damage_is_named_and_leaves_no_file() {
    let fixture = Fixture::new();
    let machine = fixture.path(&format!("vault/seg/{}/{:020}", fixture.machine, fixture.points[1].seq));
    let segment = std::fs::read_dir(machine).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let output = fixture.restore("web1@latest", "data", "out");
    fixture.refused(&output, 1, "machine web1", "out");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&fixture.points[1].id.to_string()) && stderr.contains("data"), "{stderr}");
    // The point before does not need that segment.
    let first = fixture.points[0].id.to_string();
    succeeded(&fixture.restore(&first, "data", "first"));
    assert!(std::fs::read(fixture.path("first")).unwrap() == fixture.data);

    // A newest point that does not read is not silently passed over.
    let point = format!("vault/points/{}/{:020}", fixture.machine, fixture.points[1].seq);
    let mut bytes = std::fs::read(fixture.path(&point)).unwrap();
    bytes[150] ^= 1;
    std::fs::write(fixture.path(&point), bytes).unwrap();
    fixture.refused(&fixture.restore("web1@latest", "data", "out"), 1, "is damaged", "out");
    let output = fixture.run(&["list", "-o", "json"]);
    succeeded(&output);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&"listed".into(), &"damaged".into()));
    assert!(listed[1]["id"].is_null() && listed[1]["error"].is_string());
}

#[test]
fn a_sample_is_so_many_percent_with_a_sign_or_without() {
    let fixture = Fixture::new();
    for sample in ["100", "100%"] {
        let output = fixture.run(&["check", "--sample", sample, "-o", "json"]);
        succeeded(&output);
        let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(checked["segments"].as_u64().unwrap() > 0, "{checked}");
        assert_eq!(checked["read_segments"], checked["segments"], "{checked}");
    }
    succeeded(&fixture.run(&["check", "--sample", "0.5%"]));
    assert_eq!(fixture.run(&["check", "--sample", "101"]).status.code(), Some(2));
}

#[test]
fn keys_are_added_rotated_and_removed() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("secret"), "correct horse battery\nnot this\n").unwrap();
    std::fs::set_permissions(fixture.path("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    succeeded(&fixture.run(&["key", "add", "--label", "on call", "--new-passphrase-file", "secret"]));
    succeeded(&fixture.run(&["key", "add", "--label", "office", "--new-key-file", "office.key"]));
    assert_eq!(std::fs::metadata(fixture.path("office.key")).unwrap().mode() & 0o777, 0o600);
    let kit = fixture.run(&["key", "recovery-kit", "--output", "kit.txt"]);
    succeeded(&kit);
    assert_eq!(std::fs::metadata(fixture.path("kit.txt")).unwrap().mode() & 0o777, 0o600);
    // The line on the page is a key file.
    let page = std::fs::read_to_string(fixture.path("kit.txt")).unwrap();
    let line = page.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    std::fs::write(fixture.path("kit.key"), line).unwrap();
    std::fs::set_permissions(fixture.path("kit.key"), PermissionsExt::from_mode(0o600)).unwrap();

    let list = |unlock: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_holdfast-vault"))
            .current_dir(fixture.dir.path())
            .args(["--vault", "vault"])
            .args(unlock)
            .arg("list")
            .output()
            .unwrap()
    };
    let unlocks = [
        ["--key", "vault.key"],
        ["--key", "office.key"],
        ["--key", "kit.key"],
        ["--passphrase-file", "secret"],
    ];
    for unlock in &unlocks {
        let output = list(unlock);
        succeeded(&output);
        assert!(String::from_utf8_lossy(&output.stdout).contains("web1"));
    }
    let without = list(&[]);
    assert_eq!(without.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&without.stderr).contains("next: give --key FILE"));
    assert_eq!(list(&["--key", "vault.key", "--passphrase"]).status.code(), Some(2));

    let recipients = || {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-vault"))
            .current_dir(fixture.dir.path())
            .args(["--vault", "vault", "key", "list", "-o", "json"])
            .output()
            .unwrap();
        succeeded(&output);
        let known: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let known = known.as_array().unwrap().clone();
        known
            .iter()
            .map(|entry| {
                [&entry["kind"], &entry["label"], &entry["id"]]
                    .map(|value| value.as_str().unwrap().to_owned())
            })
            .collect::<Vec<_>>()
    };
    let known = recipients();
    let names: Vec<_> = known.iter().map(|[kind, label, _]| (&**kind, &**label)).collect();
    assert_eq!(
        names,
        [("first", ""), ("passphrase", "on call"), ("identity", "office"), ("identity", "recovery kit")]
    );
    let office = &known[2][2];
    fixture.refused(&fixture.run(&["key", "remove", office]), 1, "was not removed", "out");
    fixture.refused(
        &fixture.run_with("office.key", &["key", "remove", office, "--yes"]),
        1,
        "cannot be removed",
        "out",
    );
    succeeded(&fixture.run(&["key", "remove", office, "--yes"]));
    let refused = list(&["--key", "office.key"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("does not open the vault") && stderr.contains("on call"), "{stderr}");

    // What is refused leaves no file.
    let long = "x".repeat(200);
    let add = ["key", "add", "--label", &long, "--new-key-file", "out"];
    fixture.refused(&fixture.run(&add), 1, "a label has", "out");
    fixture.refused(
        &fixture.run(&["key", "recovery-kit", "--label", &long, "--output", "out"]),
        1,
        "a label has",
        "out",
    );
    fixture.refused(&fixture.run(&["key", "rotate", "--new-key-file", "kit.key"]), 1, "kit.key", "out");
    succeeded(&fixture.run(&["key", "rotate", "--new-key-file", "new.key"]));
    assert_eq!(list(&["--key", "vault.key"]).status.code(), Some(1));
    succeeded(
        &fixture.run_with("new.key", &["restore", "--point", "web1@latest", "--disk", "data", "--to", "out"]),
    );
    assert!(std::fs::read(fixture.path("out")).unwrap() == fixture.data);
    assert_eq!(recipients().len(), 3);
}

/// By somebody who has the page, the vault and a shell in another folder.
#[test]
fn the_lines_of_a_recovery_kit_work_as_they_are_printed() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("vault", fixture.path("eve's vault")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_holdfast-vault"));
    let kit = Command::new(program)
        .current_dir(fixture.dir.path())
        .args(["--vault", "eve's vault", "--key", "vault.key", "key", "recovery-kit"])
        .output()
        .unwrap();
    succeeded(&kit);
    let page = String::from_utf8(kit.stdout).unwrap();

    let elsewhere = tempfile::tempdir().unwrap();
    let path = |name: &str| elsewhere.path().join(name);
    let secret = page.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    std::fs::write(path("page.key"), secret).unwrap();
    std::fs::set_permissions(path("page.key"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::copy(fixture.path("vault.key"), path("vault.key")).unwrap();
    let run = |line: &str| {
        let output = Command::new("/bin/sh")
            .current_dir(elsewhere.path())
            .env("PATH", program.parent().unwrap())
            .args(["-c", line])
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let lines: Vec<String> = page
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("holdfast-vault "))
        .map(|line| line.replace(" FILE ", " page.key ").replace(" OTHER ", " vault.key "))
        .collect();
    let [list, restore, recipients, remove] = &lines[..] else { panic!("{page}") };
    assert!(run(list).contains("web1"));
    run(&restore.replace(" MACHINE@latest ", " web1@latest ").replace(" NAME ", " data "));
    assert!(std::fs::read(path("disk.raw")).unwrap() == fixture.data);
    let known = run(recipients);
    let row = known.lines().find(|row| row.contains("recovery kit")).unwrap();
    let id = row.split_whitespace().next().unwrap();
    assert!(run(&remove.replace(" ID ", &format!(" {id} "))).contains("recovery kit"));
}

#[test]
fn a_passphrase_is_rotated_and_one_that_is_cut_off_leaves_both() {
    let fixture = Fixture::new();
    let secret = |file: &str, text: &str| {
        std::fs::write(fixture.path(file), text).unwrap();
        std::fs::set_permissions(fixture.path(file), PermissionsExt::from_mode(0o600)).unwrap();
    };
    secret("old", "correct horse battery\n");
    secret("new", "staple of another kind\n");
    secret("short", "elevenchars\n");
    succeeded(&fixture.run(&["key", "add", "--label", "on call", "--new-passphrase-file", "old"]));
    let run = |passphrase: &str, args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_holdfast-vault"))
            .current_dir(fixture.dir.path())
            .args(["--vault", "vault", "--passphrase-file", passphrase])
            .args(args)
            .output()
            .unwrap()
    };
    let known = || {
        let output = run("old", &["key", "list", "-o", "json"]);
        succeeded(&output);
        let known: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        known.as_array().unwrap().clone()
    };
    let rotate = ["key", "rotate", "--new-passphrase-file", "new"];

    // What is refused changes nothing.
    let before = known();
    let to_key = run("old", &["key", "rotate", "--new-key-file", "out"]);
    fixture.refused(&to_key, 1, "a passphrase by a passphrase", "out");
    fixture.refused(&fixture.run(&rotate), 1, "replaced by a key file", "out");
    let same = run("old", &["key", "rotate", "--new-passphrase-file", "old"]);
    fixture.refused(&same, 1, "opens the vault already", "out");
    let short = run("old", &["key", "rotate", "--new-passphrase-file", "short"]);
    fixture.refused(&short, 1, "12 characters", "out");
    fixture.refused(&run("old", &["key", "rotate"]), 2, "--new-passphrase", "out");
    assert_eq!(known(), before);

    // It ends before the old one is removed: no removal can be decided.
    let first = before.iter().find(|entry| entry["kind"] == "first").unwrap()["id"].as_str().unwrap();
    let blocked = fixture.path(&format!("vault/keys/{first}.00000001"));
    std::fs::write(&blocked, "nonsense").unwrap();
    assert_eq!(run("old", &rotate).status.code(), Some(1));
    assert_eq!(known().len(), 3);
    succeeded(&run("old", &["list"]));
    succeeded(&run("new", &["list"]));

    std::fs::remove_file(&blocked).unwrap();
    secret("newest", "a third one that is long\n");
    succeeded(&run("new", &["key", "rotate", "--new-passphrase-file", "newest"]));
    assert_eq!(run("new", &["list"]).status.code(), Some(1));
    succeeded(&run("newest", &["restore", "--point", "web1@latest", "--disk", "data", "--to", "disk"]));
    assert!(std::fs::read(fixture.path("disk")).unwrap() == fixture.data);
    succeeded(&run("old", &["list"]));
    let left = known();
    assert_eq!(left.len(), 3);
    assert!(left[1..].iter().all(|entry| entry["kind"] == "passphrase" && entry["label"] == "on call"));
}
