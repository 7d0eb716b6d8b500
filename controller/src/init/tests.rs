use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{CONFIG_FILE, Folders};

fn config(data: &Path) -> InitConfig {
    let folders = Folders { data: data.to_owned(), vault: VaultPlace::Directory(data.join("vault")) };
    InitConfig {
        folders,
        hosts: vec!["backup.example.com".to_owned()],
        vault_was_named: false,
        new_vault: false,
        names_in_database: false,
    }
}

fn content(data: &Path) -> Vec<Vec<u8>> {
    ["pki/ca.pem", "pki/ca.key", "vault.key", "vault/vault.json", CONFIG_FILE]
        .iter()
        .map(|name| fs::read(data.join(name)).unwrap())
        .collect()
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new/data");
    run(config(&data)).await.unwrap();
    let first = content(&data);
    assert_eq!(first[4], b"host = [\"backup.example.com\"]\n");
    run(config(&data)).await.unwrap();
    assert_eq!(content(&data), first);
}

#[tokio::test]
async fn what_an_interrupted_run_left_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let (key, fresh) = (dir.path().join("vault.key"), dir.path().join("vault.key.new"));
    run(config(dir.path())).await.unwrap();
    let first = content(dir.path());
    // Before the authority was there, and after the vault was made, but before its key had its name.
    fs::remove_dir_all(dir.path().join("pki")).unwrap();
    fs::rename(&key, &fresh).unwrap();
    run(config(dir.path())).await.unwrap();
    let second = content(dir.path());
    assert_eq!(first[2..], second[2..], "key, vault and configuration stay");
    assert_ne!(first[0], second[0]);
    assert!(!fresh.try_exists().unwrap());
    // Before the vault was made.
    fs::rename(&key, &fresh).unwrap();
    fs::remove_dir_all(dir.path().join("vault")).unwrap();
    run(config(dir.path())).await.unwrap();
    let third = content(dir.path());
    assert_eq!(first[2], third[2], "the key that was made is used");
    assert_ne!(first[3], third[3]);
    assert!(!fresh.try_exists().unwrap());
}

/// Half a configuration would be kept as one that was edited.
#[tokio::test]
async fn a_configuration_has_its_name_once_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (path, staged) = (dir.path().join(CONFIG_FILE), dir.path().join("controller.toml.new"));
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("in-the-way"), "").unwrap();
    let cut_off = run(config(dir.path())).await;
    assert!(matches!(cut_off, Err(InitError::Make { .. })), "{cut_off:?}");
    assert!(!path.try_exists().unwrap(), "nothing is written in place");
    fs::remove_dir_all(&staged).unwrap();
    fs::write(&staged, "host = [\"exam").unwrap();
    run(config(dir.path())).await.unwrap();
    assert!(toml::from_str::<toml::Table>(&fs::read_to_string(&path).unwrap()).unwrap().contains_key("host"));
    assert!(!staged.try_exists().unwrap());
    fs::write(&path, "# mine").unwrap();
    run(config(dir.path())).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine");
    assert!(!staged.try_exists().unwrap());
}

/// A disk that is not mounted must not become a second vault.
#[tokio::test]
async fn a_key_without_its_vault_makes_no_other_one_unasked() {
    let dir = tempfile::tempdir().unwrap();
    run(config(dir.path())).await.unwrap();
    let vault = dir.path().join("vault");
    fs::rename(&vault, dir.path().join("away")).unwrap();
    for mount_point in [false, true] {
        if mount_point {
            fs::create_dir(&vault).unwrap();
        }
        let refused = run(config(dir.path())).await.unwrap_err();
        assert!(matches!(refused, InitError::VaultLost { .. }), "{refused:?}");
        let next = refused.next_step().unwrap();
        assert!(next.contains("mount") && next.contains("--vault") && next.contains("--new-vault"), "{next}");
        assert_eq!(vault.try_exists().unwrap(), mount_point);
    }
    assert_eq!(fs::read_dir(&vault).unwrap().count(), 0);
    let key = fs::read(dir.path().join("vault.key")).unwrap();
    run(InitConfig { new_vault: true, ..config(dir.path()) }).await.unwrap();
    assert_eq!(fs::read(dir.path().join("vault.key")).unwrap(), key);
    assert!(vault.join(VAULT_MARK).try_exists().unwrap());
    // Where there is one it is opened, whatever was asked for.
    let made = content(dir.path());
    run(InitConfig { new_vault: true, ..config(dir.path()) }).await.unwrap();
    assert_eq!(content(dir.path()), made);
}

#[tokio::test]
async fn a_key_that_was_being_made_is_not_taken_for_that_of_another_vault() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(config(dir.path())).await.unwrap();
    run(config(other.path())).await.unwrap();
    fs::remove_file(dir.path().join("vault.key")).unwrap();
    fs::rename(other.path().join("vault.key"), dir.path().join("vault.key.new")).unwrap();
    assert!(matches!(run(config(dir.path())).await, Err(InitError::KeyLost { .. })));
    assert!(!dir.path().join("vault.key").try_exists().unwrap());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(config(dir.path())).await.unwrap();
    let key = dir.path().join("vault.key");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let refused = run(config(dir.path())).await.unwrap_err();
    assert_eq!(refused.next_step(), Some(format!("run `chmod 600 {}`", key.display())));
}

#[tokio::test]
async fn a_lost_vault_key_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    run(config(dir.path())).await.unwrap();
    fs::remove_file(dir.path().join("vault.key")).unwrap();
    assert!(matches!(run(config(dir.path())).await, Err(InitError::KeyLost { .. })));
    assert!(!dir.path().join("vault.key").try_exists().unwrap());
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = InitConfig { hosts: vec!["https://x".to_owned()], ..config(&data) };
    assert!(matches!(run(config).await, Err(InitError::Pki { .. })));
    assert!(!data.try_exists().unwrap());
}
