use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn issue(name: &str) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    Identity {
        record: AgentRecord {
            agent_id: "a".to_owned(),
            machine_id: "m".to_owned(),
            machine_name: name.to_owned(),
            certified_at: Utc::now(),
        },
        key_pem: key.serialize_pem(),
        chain_pem: certificate.pem(),
        ca_pem: certificate.pem(),
    }
}

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    (dir, state)
}

#[test]
fn what_is_stored_is_loaded_and_only_the_owner_can_read_it() {
    let (_dir, state) = state();
    assert!(matches!(Identity::load(&state), Err(IdentityError::Missing { .. })));
    for name in ["first", "second"] {
        let identity = issue(name);
        identity.store(&state).unwrap();
        assert_eq!(Identity::load(&state).unwrap(), identity);
    }
    for file in ["agent.json", "key.pem", "cert.pem", "ca.pem"] {
        let mode = std::fs::metadata(state.identity().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let key = state.identity().join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Identity::load(&state);
    assert!(
        matches!(&refused, Err(IdentityError::Exposed { path, mode: 0o640 }) if *path == key),
        "{refused:?}"
    );
}

#[test]
fn a_crash_before_the_exchange_leaves_the_old_pair() {
    let (_dir, state) = state();
    let old = issue("old");
    old.store(&state).unwrap();
    let fresh = fresh_path(&state.identity());
    std::fs::create_dir(&fresh).unwrap();
    std::fs::write(fresh.join("key.pem"), issue("new").key_pem).unwrap();
    assert_eq!(Identity::load(&state).unwrap(), old);
    assert!(!fresh.try_exists().unwrap());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (_dir, state) = state();
    let mut mixed = issue("one");
    mixed.key_pem = issue("two").key_pem;
    assert!(matches!(mixed.store(&state), Err(IdentityError::Mismatch)));
    issue("one").store(&state).unwrap();
    std::fs::write(state.identity().join("key.pem"), &mixed.key_pem).unwrap();
    assert!(matches!(Identity::load(&state), Err(IdentityError::Mismatch)));
}
