//! Policies as people write them: what is read can be applied, shown and read again, and is the same.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the command line's own files")]

mod client;
mod error;
mod policy;

use holdfast_fuzz as _;
use libfuzzer_sys::fuzz_target;
use policy::file::{PolicyFile, parse};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(policies) = parse(text) else { return };
    assert!(!policies.is_empty(), "a file without a policy is refused");
    for policy in policies {
        let (name, spec) = policy.clone().into_wire();
        let back = PolicyFile::from_wire(name, spec);
        assert_eq!(back, policy, "the wire keeps all of it");
        let shown = serde_yaml_ng::to_string(&policy).expect("a policy can be shown");
        assert_eq!(parse(&shown).as_deref(), Ok(&[policy][..]), "what is shown can be applied: {shown}");
    }
});
