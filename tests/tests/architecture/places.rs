//! Things that have one place.

use crate::source::{files, in_one_line, root, shipped, statements};

const LONGEST_FILE: usize = 500;

/// What must not stand in the files below a folder, except in some.
struct Ban {
    folder: &'static str,
    words: &'static [&'static str],
    except: &'static [&'static str],
    instead: &'static str,
}

const BANS: [Ban; 12] = [
    Ban {
        folder: "controller/src/domain",
        words: &["sqlx", "tonic", "tokio", "prost", "holdfast_proto", "std::fs", "std::net", "::now()"],
        except: &[],
        instead: "the domain is pure: pass values in, hand decisions out",
    },
    Ban {
        folder: "vault/format/src",
        words: &["std::fs", "std::net", "async ", "::now()"],
        except: &[],
        instead: "the format is pure: bytes in, values out",
    },
    Ban {
        folder: "vault/engine/src",
        words: &[
            "store().put(",
            "objects().put(",
            ".put_opts(",
            ".put_multipart",
            ".delete(",
            ".rename(",
            ".copy(",
            "PutMode::Overwrite",
            "remove_file",
            "fs::write",
        ],
        except: &[
            "vault/engine/src/object",
            "vault/engine/src/staging.rs",
            "vault/engine/src/key_file.rs",
            // The storage itself.
            "vault/engine/src/store/direct.rs",
        ],
        instead: "objects are created, once, by object::create, and never changed",
    },
    Ban {
        folder: "vault/engine/src",
        words: &["object::delete("],
        except: &[
            "vault/engine/src/collect.rs",
            "vault/engine/src/collect/",
            "vault/engine/src/keys/removal.rs",
            "vault/engine/src/probe.rs",
        ],
        instead: "objects are deleted by a collection, which found them dead twice; recipients of the keys by Keys::remove",
    },
    Ban {
        folder: "vault/engine/src",
        words: &[".delete_version("],
        except: &["vault/engine/src/probe.rs"],
        instead: "versions are what is left of a locked point: only what a storage was tried with is deleted by version",
    },
    Ban {
        folder: "controller/src",
        words: &["sqlx::", "include_str!(\"sql/"],
        except: &["controller/src/store.rs", "controller/src/store/"],
        instead: "SQL belongs into controller/src/store",
    },
    Ban {
        folder: "controller/src",
        words: &[".begin()"],
        except: &["controller/src/store.rs"],
        instead: "use Store::transaction, which nobody can drop in the middle",
    },
    Ban {
        folder: "controller/src",
        words: &["FROM machine_slots", "UPDATE machine_slots", "JOIN machine_slots"],
        except: &[
            "controller/src/store/slot.rs",
            "controller/src/store/advance.rs",
            // It locks the rows itself, of many machines in one statement, and skips those that are locked.
            "controller/src/store/sql/claim_steps.sql",
        ],
        instead: "take a LockedSlot",
    },
    Ban {
        folder: "controller/src",
        words: &["INSERT INTO jobs", "INSERT INTO steps"],
        // What is new waits, or is over at once: the machine's slot is locked when it starts.
        except: &["controller/src/store/sql/begin_backups.sql"],
        instead: "backups begin in one way, by begin_backups.sql",
    },
    Ban {
        folder: "controller/src",
        words: &["UPDATE jobs SET state", "UPDATE steps SET state", "SET state = $2"],
        except: &[
            "controller/src/store/advance.rs",
            // A claim that did not get through is taken back; progress says that a step runs.
            "controller/src/store/claim.rs",
            "controller/src/store/session.rs",
            // What waited starts, under the lock that it takes itself.
            "controller/src/store/sql/claim_steps.sql",
        ],
        instead: "let domain::backup decide and store::advance do it",
    },
    Ban {
        folder: "controller/src",
        words: &["tonic", "v1::"],
        except: &[
            // What is said.
            "controller/src/api/",
            "controller/src/live.rs",
            "controller/src/live/",
            "controller/src/session/",
            "controller/src/rpc_error.rs",
            // What the gateway asks and is told, in its own errors.
            "controller/src/authority.rs",
            "controller/src/collection.rs",
            // Who calls, and how often.
            "controller/src/identity.rs",
            "controller/src/identity/",
            "controller/src/listen/connection.rs",
            "controller/src/telemetry/requests.rs",
            "controller/src/serve.rs",
            "controller/src/serve/",
            // Its first line says that it does without.
            "controller/src/domain.rs",
        ],
        instead: "store, tasks and domain speak the domain's words: convert in api/, live/ or session/",
    },
    Ban {
        folder: "agent/src",
        words: &["Command::new"],
        except: &["agent/src/hooks/run.rs", "agent/src/snapshot/watchdog.rs"],
        instead: "an agent starts itself as its watchdog and the hooks that the machine's owner put there, nothing else",
    },
];

#[test]
fn what_has_one_place_is_nowhere_else() {
    for Ban { folder, words, except, instead } in BANS {
        let with_sql = if folder == "controller/src" { statements(folder) } else { Vec::new() };
        for source in shipped(folder).into_iter().chain(with_sql) {
            if except.iter().any(|path| source.path.starts_with(path)) {
                continue;
            }
            let text = in_one_line(&source.text);
            for word in words {
                assert!(!text.contains(word), "{} has {word:?}: {instead}", source.path);
            }
        }
        for path in except {
            assert!(
                root().join(path).try_exists().unwrap(),
                "{path} is gone: mend the exceptions of {folder}"
            );
        }
    }
}

#[test]
fn no_source_file_is_longer_than_can_be_read_at_once() {
    for source in files(".", "rs") {
        let lines = source.text.lines().count();
        let path = source.path;
        assert!(lines <= LONGEST_FILE, "{path} has {lines} lines: split it by idea, not by length");
    }
}

/// Clippy refuses the methods; the one place that may begin a transaction says so.
#[test]
fn a_transaction_begins_in_one_place() {
    let lint = std::fs::read_to_string(root().join("clippy.toml")).unwrap();
    assert!(lint.contains("\"sqlx::Pool::begin\""), "clippy.toml must go on refusing sqlx::Pool::begin");
    let begins: usize =
        shipped("controller/src").iter().map(|source| source.text.matches(".begin()").count()).sum();
    assert_eq!(begins, 1, "Store::transaction is to be the one place that begins a transaction");
}
