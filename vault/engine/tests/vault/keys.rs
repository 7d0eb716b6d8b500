//! Who can unlock a vault, and who cannot.

use std::sync::Arc;
use std::time::Duration;

use holdfast_vault_engine::{
    KeyFile, Keys, Passphrase, RecipientKind, Storage, Unlock, Vault, VaultError, chain,
};
use uuid::Uuid;

use super::support::faulty::{Fault, Faulty};
use super::support::{Image, TestVault, back_up, restore_disk};

const SECRET: &str = "correct horse battery";

fn storage(test: &TestVault) -> Storage {
    Storage::directory(&test.path).unwrap()
}

async fn by_key(test: &TestVault, key: &KeyFile) -> Result<Keys, VaultError> {
    Keys::unlock(storage(test), Unlock::Key(key)).await
}

async fn by_passphrase(test: &TestVault, text: &str) -> Result<Keys, VaultError> {
    Keys::unlock(storage(test), Unlock::Passphrase(&Passphrase::new(text.to_owned()))).await
}

fn bad_input<T: std::fmt::Debug>(result: Result<T, VaultError>) -> String {
    match result {
        Err(VaultError::BadInput { detail }) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipient_opens_and_restores() {
    let test = TestVault::new().await;
    let image = Image::mixed(1, 300_000);
    let point = back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let objects = test.objects().len();
    let first = by_key(&test, &test.key).await.unwrap();
    assert_eq!(first.used().kind, RecipientKind::First);
    let office = KeyFile::new();
    first.add_identity("office safe", &office.public()).await.unwrap();
    first.add_passphrase("on call", &Passphrase::new(SECRET.to_owned())).await.unwrap();
    assert_eq!(test.objects().len(), objects + 2, "nothing else is written");

    for keys in [
        by_key(&test, &test.key).await.unwrap(),
        by_key(&test, &office).await.unwrap(),
        by_passphrase(&test, SECRET).await.unwrap(),
    ] {
        let vault = Vault::open_with(keys).unwrap();
        restore_disk(&vault, &point, "sda", &image).await;
        back_up(&vault, point.machine, &[("sda", &image)]).await.unwrap();
    }
    let known = Keys::recipients(&storage(&test)).await.unwrap();
    let kinds: Vec<_> = known.iter().map(|info| (info.kind.clone(), &*info.label)).collect();
    let public = office.public();
    assert_eq!(
        kinds,
        [
            (RecipientKind::First, ""),
            (RecipientKind::Identity { public: public.clone() }, "office safe"),
            (RecipientKind::Passphrase, "on call"),
        ]
    );

    // A controller opens with the identity that it has, whichever it is.
    Vault::open(storage(&test), &office).await.unwrap();
    for wrong in [by_key(&test, &KeyFile::new()).await, by_passphrase(&test, "correct horse batterz").await] {
        let error = wrong.unwrap_err();
        assert!(matches!(error, VaultError::WrongKey { .. }), "{error:?}");
        let text = error.to_string();
        for name in ["the first key file", "office safe", &public, "on call", "passphrase"] {
            assert!(text.contains(name), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_opens_nothing_any_more() {
    let test = TestVault::new().await;
    let image = Image::mixed(2, 100_000);
    let point = back_up(&test.vault, Uuid::new_v4(), &[("sda", &image)]).await.unwrap();
    let first = by_key(&test, &test.key).await.unwrap();
    assert!(bad_input(first.remove(first.used().id).await).contains("cannot be removed"));
    assert!(bad_input(first.remove(Uuid::new_v4()).await).contains("no recipient"));
    let (two, three) = (KeyFile::new(), KeyFile::new());
    first.add_identity("two", &two.public()).await.unwrap();
    let third = first.add_identity("three", &three.public()).await.unwrap();
    let second = by_key(&test, &two).await.unwrap();
    second.remove(first.used().id).await.unwrap();
    let refused = by_key(&test, &test.key).await.unwrap_err();
    assert!(matches!(refused, VaultError::WrongKey { .. }), "{refused:?}");
    assert!(Vault::open(storage(&test), &test.key).await.is_err());
    second.remove(third.id).await.unwrap();
    assert!(by_key(&test, &three).await.is_err());
    let vault = Vault::open(storage(&test), &two).await.unwrap();
    restore_disk(&vault, &point, "sda", &image).await;
    assert_eq!(Keys::recipients(&storage(&test)).await.unwrap(), [second.used().clone()]);

    // Two who remove each other: one is left, if not both.
    let four = KeyFile::new();
    second.add_identity("four", &four.public()).await.unwrap();
    for _ in 0..20 {
        let (one, other) = (by_key(&test, &two).await, by_key(&test, &four).await);
        let (Ok(one), Ok(other)) = (one, other) else { break };
        let ids = (one.used().id, other.used().id);
        let removed = (
            tokio::spawn(async move { one.remove(ids.1).await.map(drop) }),
            tokio::spawn(async move { other.remove(ids.0).await.map(drop) }),
        );
        let _ = (removed.0.await.unwrap(), removed.1.await.unwrap());
        let left = (by_key(&test, &two).await, by_key(&test, &four).await);
        assert!(left.0.is_ok() || left.1.is_ok(), "{left:?}");
        for (survivor, lost) in [(&left.0, &four), (&left.1, &two)] {
            if let (Ok(survivor), Err(_)) = (survivor, by_key(&test, lost).await) {
                survivor.add_identity("again", &lost.public()).await.unwrap();
            }
        }
    }
}

/// Two who remove each other at the same time: each is stopped before any of its changes while the other goes on, and dies before any
/// later one. Somebody can open the vault, whatever happens, and finish.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_while_two_remove_each_other_one_is_left() {
    let mut interleaved = 0;
    for (one_dies, other_waits, other_dies) in
        (0..4).flat_map(|one| (0..4).flat_map(move |waits| (waits..4).map(move |dies| (one, waits, dies))))
    {
        let test = TestVault::new().await;
        let second = KeyFile::new();
        by_key(&test, &test.key).await.unwrap().add_identity("second", &second.public()).await.unwrap();
        let dying = |changes| Faulty::new(&test.path, Fault::Stopped, "keys/", changes, usize::MAX);
        let waiting =
            Faulty::over(dying(other_dies), Fault::Slow(Duration::from_millis(250)), "keys/", other_waits, 1);
        let through = |store: Arc<Faulty>| storage(&test).through(|_| store);
        let one = Keys::unlock(through(dying(one_dies)), Unlock::Key(&test.key)).await.unwrap();
        let other = Keys::unlock(through(waiting.clone()), Unlock::Key(&second)).await.unwrap();
        let ids = (one.used().id, other.used().id);
        let removal = tokio::spawn(async move { other.remove(ids.0).await.map(drop) });
        let wait = waiting.struck();
        tokio::pin!(wait);
        while !removal.is_finished() {
            tokio::select! {
                () = &mut wait => {
                    interleaved += 1;
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        let _ = one.remove(ids.1).await;
        let _ = removal.await.unwrap();

        let case = format!("{one_dies} {other_waits} {other_dies}");
        let keys = [&test.key, &second];
        let mut left = 0;
        for key in keys {
            let Ok(opened) = by_key(&test, key).await else { continue };
            left += 1;
            for info in Keys::recipients(&storage(&test)).await.unwrap() {
                match opened.remove(info.id).await {
                    Ok(_) => assert!(by_key(&test, key).await.is_ok(), "{case}"),
                    refused => assert!(bad_input(refused).contains("the key that unlocked"), "{case}"),
                }
            }
        }
        assert!(left > 0, "nobody can open it: {case}");
        assert_eq!(Keys::recipients(&storage(&test)).await.unwrap().len(), 1, "{case}");
    }
    assert!(interleaved > 8, "{interleaved}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_recipients_are_refused() {
    let test = TestVault::new().await;
    let keys = by_key(&test, &test.key).await.unwrap();
    let before = test.objects();
    assert!(bad_input(keys.add_identity("x", "age1nonsense").await).contains("age1nonsense"));
    let good = KeyFile::new().public();
    for label in ["", "  ", "a\nb", &"x".repeat(129)] {
        assert!(bad_input(keys.add_identity(label, &good).await).contains("label"));
    }
    for short in ["", "elevenchars"] {
        let refused = keys.add_passphrase("x", &Passphrase::new(short.to_owned())).await;
        assert!(bad_input(refused).contains("12 characters"));
    }
    assert_eq!(test.objects(), before);
}

/// Whatever is changed in a recipient is noticed by who has its key, and keeps nobody else from opening.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_recipient_is_noticed_and_harms_no_other() {
    let test = TestVault::new().await;
    let key = KeyFile::new();
    let keys = by_key(&test, &test.key).await.unwrap();
    let added = keys.add_identity("office", &key.public()).await.unwrap();
    let path = test.path.join(format!("keys/{}.{}", keys.used().id, added.id));
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(3).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = by_key(&test, &key).await.unwrap_err();
        assert!(error.is_damage() || matches!(error, VaultError::WrongKey { .. }), "{at}: {}", chain(&error));
        by_key(&test, &test.key).await.unwrap();
    }
    // A recipient of another vault, or under another name.
    let other = TestVault::new().await;
    let foreign = by_key(&other, &other.key).await.unwrap();
    let theirs = foreign.add_identity("office", &key.public()).await.unwrap();
    let theirs = other.path.join(format!("keys/{}.{}", foreign.used().id, theirs.id));
    for bytes in [std::fs::read(theirs).unwrap(), Vec::new(), vec![0; 5000]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(by_key(&test, &key).await, Err(VaultError::WrongKey { .. })));
        let known = Keys::recipients(&storage(&test)).await.unwrap();
        let damaged: Vec<_> =
            known.iter().filter(|info| matches!(info.kind, RecipientKind::Damaged { .. })).collect();
        assert!(matches!(&*damaged, [info] if info.id == added.id), "{known:?}");
    }
    keys.remove(added.id).await.unwrap();
    // The first one is damaged, or gone: the others open.
    let again = keys.add_identity("office", &key.public()).await.unwrap();
    let first = test.path.join(format!("keys/{}", keys.used().id));
    let mut bytes = std::fs::read(&first).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&first, bytes).unwrap();
    by_key(&test, &key).await.unwrap();
    let error = by_key(&test, &test.key).await.unwrap_err();
    assert!(matches!(error, VaultError::BadKeys { .. }), "{error:?}");
    // Nor does its disk give it any more.
    let lost = |key| {
        let faulty = Faulty::new(&test.path, Fault::Lost, "keys/", 0, 1);
        Keys::unlock(storage(&test).through(|_| faulty), Unlock::Key(key))
    };
    assert_eq!(lost(&key).await.unwrap().used().id, again.id);
    let error = lost(&test.key).await.unwrap_err();
    assert!(matches!(error, VaultError::Unreadable { .. }), "{error:?}");
    std::fs::remove_file(&first).unwrap();
    by_key(&test, &key).await.unwrap();
}
