//! A server that has to enforce locks is tried before anybody is told that it does.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{LockMode, NotEnforced, S3, S3ObjectLock, Storage, Vault, VaultError};
use http::Method;

use super::support::object_lock::{LockBucket, Locks};
use super::support::s3::{S3Vault, Server, new_key};

async fn creation_error(place: &S3) -> VaultError {
    let (_dir, key) = new_key();
    let storage = Storage::s3(place).unwrap();
    let refused = Vault::create(storage.clone(), &key).await.unwrap_err();
    assert!(!Vault::is_in(&storage).await.unwrap(), "a vault was made");
    refused
}

async fn refusal(place: &S3) -> NotEnforced {
    match creation_error(place).await {
        VaultError::NotEnforced { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Nobody is told that something cannot be deleted which can be.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_server_that_does_not_enforce_locks_is_refused() {
    let Some(server) = Server::start() else { return };
    let unversioned = S3 { object_lock: S3ObjectLock::Required, ..server.place() };
    assert_eq!(refusal(&unversioned).await, NotEnforced::Unversioned);
    // It may have a vault since before the setting was switched on.
    let test = S3Vault::new(server.place()).await;
    let switched_on = S3 { object_lock: S3ObjectLock::Required, ..test.place.clone() };
    let refused = Vault::open(Storage::s3(&switched_on).unwrap(), &test.key).await.unwrap_err();
    assert!(matches!(refused, VaultError::NotEnforced { reason: NotEnforced::Unversioned }), "{refused:?}");
    assert!(refused.next_step().unwrap().contains("object_lock = false"), "{refused:?}");

    let versioned = LockBucket::on(server, &[]).await;
    let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
                </VersioningConfiguration>";
    let answered = versioned.bucket.request(Method::PUT, "", &[("versioning", "")], &[], body).await;
    assert_eq!(answered.0, 200, "{answered:?}");
    if versioned.bucket.takes_names_twice().await {
        let refused = creation_error(&versioned.place()).await;
        assert!(matches!(refused, VaultError::CreatesTwice), "{refused:?}");
    } else {
        let refused = refusal(&versioned.place()).await;
        assert!(matches!(refused, NotEnforced::Unable { .. }), "{refused:?}");
    }

    for (locks, expected) in [
        (Locks::Ignored, NotEnforced::Deletes { mode: LockMode::Governance }),
        (Locks::Moto, NotEnforced::Shortens),
    ] {
        let Some(server) = LockBucket::of_moto(locks).await else { return };
        assert_eq!(refusal(&server.place()).await, expected, "{locks:?}");
    }
}

/// Nobody can shorten what a trial retains, so it stays for a minute; no vault is refused because of it.
#[tokio::test(flavor = "multi_thread")]
async fn s3_what_a_server_was_tried_with_is_removed() {
    let Some(server) = LockBucket::start().await else { return };
    let bucket = &server.bucket;
    let test = S3Vault::new(server.place()).await;
    let probes = test.name("probe").to_string();
    let count = async || bucket.versions(&probes).await.iter().filter(|version| !version.is_marker).count();
    let left = count().await;
    test.vault.sweep_probes(Utc::now()).await;
    assert_eq!(count().await, left, "another controller may be at it");
    let later = Utc::now() + TimeDelta::hours(1);
    test.vault.sweep_probes(later).await;
    assert!(count().await >= 2, "the server forgot a retention");
    for object in bucket.versions(test.name("").as_ref()).await {
        if !object.key.starts_with(&probes) {
            assert_eq!(bucket.delete_version(&object).await, 204, "{object:?}");
        }
    }
    Vault::create(Storage::s3(&test.place).unwrap(), &test.key).await.unwrap();
    tokio::time::sleep(Duration::from_secs(62)).await;
    test.vault.sweep_probes(later).await;
    // That a name is taken once was tried by objects that were deleted like any other.
    let plain = bucket.versions(&probes).await;
    let hidden: BTreeSet<_> = plain.iter().filter(|v| v.is_marker).map(|v| v.key.clone()).collect();
    assert!(plain.iter().all(|version| hidden.contains(&version.key)), "{plain:?}");
}
