//! Harm to what opens a vault: it does not open, and says why; or all of it is as it was.

use holdfast_vault_engine::{Storage, Vault, chain};

use super::harmed;
use super::subject::Subject;
use crate::support::image::Random;

/// Harms to one object before it is gone and another one in its place.
const HARMS: usize = 3;

/// Tries to open a harmed vault, by what came of them.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) refused: usize,
    pub(super) as_before: usize,
}

/// Each object that opens the vault, harmed in several ways: who needs it is refused, and nobody else.
pub(super) async fn harm_what_opens(subject: &Subject, random: &mut Random, opened: &mut Opened) {
    let names = subject.opening();
    assert_eq!(names.len(), 4, "the header, two keys, and that a third one is removed: {names:?}");
    for name in &names {
        let path = subject.test.path.join(name);
        let whole = subject.read(name);
        for _ in 0..HARMS {
            let at = random.below(whole.len());
            let (harm, bytes) = harmed(random, &whole, at, &(0..whole.len()));
            std::fs::write(&path, &bytes).unwrap();
            check(subject, name, &format!("{harm} at {at} of {name}"), opened).await;
        }
        let others: Vec<&String> = names.iter().filter(|other| *other != name).collect();
        let other = others[random.below(others.len())];
        std::fs::write(&path, subject.read(other)).unwrap();
        check(subject, name, &format!("{other} in the place of {name}"), opened).await;
        std::fs::remove_file(&path).unwrap();
        check(subject, name, &format!("gone: {name}"), opened).await;
        std::fs::write(&path, &whole).unwrap();
    }
}

async fn check(subject: &Subject, name: &str, what: &str, opened: &mut Opened) {
    for (key, own) in &subject.keys {
        match Vault::open(Storage::directory(&subject.test.path).unwrap(), key).await {
            Ok(vault) => {
                assert!(name != own, "{what} is not noticed");
                let restored = subject.restore_from(&vault).await;
                assert!(restored.broken.is_empty(), "{what}: {:?}", restored.broken);
                assert_eq!(restored.whole.len(), subject.points.len(), "{what}");
                opened.as_before += 1;
            }
            Err(error) => {
                let text = chain(&error);
                assert!(name == own || name == "vault.json", "{what} shuts others out: {text}");
                let words = ["vault.json", "keys/", "does not open the vault"];
                assert!(words.iter().any(|words| text.contains(words)), "{what}: {text}");
                opened.refused += 1;
            }
        }
    }
}
