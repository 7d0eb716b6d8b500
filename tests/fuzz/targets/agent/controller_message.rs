//! What a controller or gateway says to an agent: whatever is taken keeps the agent's limits.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the agent's own files")]

mod address;
mod answer;
mod attempt;
mod tls;
mod welcome;
mod work;

use std::time::Duration;

use address::Address;
use answer::Answer;
use attempt::Attempt;
use holdfast_fuzz as _;
use holdfast_proto::ids::SnapshotId;
use holdfast_proto::v1::controller_message::Kind;
use holdfast_proto::v1::{
    CommitTransferResponse, ControllerMessage, Dispatch, EnrollResponse, FrameAck, OpenTransferResponse,
    StepAttempt, dispatch::Step,
};
use holdfast_vault_format::block::blocks_of;
use holdfast_vault_format::{BLOCK_SIZE, MAX_CELL_BYTES};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use work::Work;

/// What TLS needs of an agent's identity.
mod identity {
    pub(crate) struct Identity {
        pub(crate) key_pem: String,
        pub(crate) chain_pem: String,
        pub(crate) ca_pem: String,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    match mode & 3 {
        0 => {
            let Ok(message) = ControllerMessage::decode(data) else { return };
            said(message);
        }
        1 => opened(data),
        2 => {
            let Ok(answer) = EnrollResponse::decode(data) else { return };
            enrolled(&answer);
        }
        _ => {
            // Nothing is read into them but numbers and bytes.
            let _ = FrameAck::decode(data);
            let _ = CommitTransferResponse::decode(data);
        }
    }
});

/// Reads a message as the session does.
fn said(message: ControllerMessage) {
    match message.kind {
        Some(Kind::Welcome(welcome)) => {
            let interval = welcome::heartbeat_interval(&welcome);
            assert!((Duration::from_millis(100)..=Duration::from_secs(300)).contains(&interval));
            for verdict in &welcome.attempts {
                read_attempt(verdict.attempt.as_ref());
            }
            for id in welcome.remove_snapshot_ids.iter().filter_map(|id| id.parse::<SnapshotId>().ok()) {
                assert_eq!(id.to_string().parse::<SnapshotId>(), Ok(id), "an id has one form");
            }
        }
        Some(Kind::Dispatch(dispatch)) => {
            read_attempt(dispatch.attempt.as_ref());
            dispatched(dispatch);
        }
        Some(Kind::Cancel(cancel)) => read_attempt(cancel.attempt.as_ref()),
        Some(Kind::Ack(ack)) => read_attempt(ack.attempt.as_ref()),
        Some(Kind::Ping(_)) | None => {}
    }
}

fn read_attempt(attempt: Option<&StepAttempt>) {
    let Some(attempt) = Attempt::from_wire(attempt) else { return };
    assert!(attempt.number >= 1);
    assert_eq!(Attempt::from_wire(Some(&attempt.to_wire())), Some(attempt));
}

fn dispatched(dispatch: Dispatch) {
    let step = dispatch.step.clone();
    match (Work::from_wire(dispatch), step) {
        (Work::TakeSnapshot { disk_names, .. }, Some(Step::TakeSnapshot(asked))) => {
            assert_eq!(disk_names, asked.disk_names);
        }
        (Work::TransferData { snapshot, gateways }, Some(Step::TransferData(asked))) => {
            assert_eq!(asked.snapshot_id.parse::<SnapshotId>(), Ok(snapshot));
            for gateway in gateways.iter().filter_map(|gateway| gateway.parse::<Address>().ok()) {
                assert_eq!(gateway.to_string().parse::<Address>(), Ok(gateway), "an address has one form");
            }
        }
        (Work::ReleaseSnapshot { snapshot }, Some(Step::ReleaseSnapshot(asked))) => {
            let asked = asked.snapshot_id.parse::<SnapshotId>().ok();
            assert!(asked.is_none_or(|asked| asked == snapshot), "nothing else is released");
        }
        (Work::Unknown, Some(Step::TransferData(asked))) => {
            assert!(asked.snapshot_id.parse::<SnapshotId>().is_err());
        }
        (Work::Unknown, None) => {}
        (work, step) => panic!("{work:?} was made of {step:?}"),
    }
}

/// Checks the answer to the opening of a transfer of some of its disks, and now and then of one more.
fn opened(data: &[u8]) {
    let Some((&asked, data)) = data.split_first() else { return };
    let Ok(answer) = OpenTransferResponse::decode(data) else { return };
    let named = answer.disks.iter().rev().take(usize::from(asked >> 1));
    let mut disks: Vec<String> = named.map(|disk| disk.name.clone()).collect();
    if asked & 1 == 1 {
        disks.push("data".to_owned());
    }
    let Ok(answer) = Answer::check(answer, disks.iter().map(String::as_str)) else { return };
    assert!(answer.bases.iter().map(|base| &base.name).eq(&disks), "one for each disk, in their order");
    assert!((1..=(MAX_CELL_BYTES / BLOCK_SIZE) as u64).contains(&answer.cell_blocks));
    for base in &answer.bases {
        assert_eq!(base.block_hash_key.len(), 32);
        assert_eq!(blocks_of(base.base_size_bytes) == 0, base.base_size_bytes == 0);
    }
}

/// Reads the CA as it is compared with what the operator vouched for, and as it is trusted then.
fn enrolled(answer: &EnrollResponse) {
    let fingerprints = tls::fingerprints(&answer.ca_pem);
    assert!(!fingerprints.as_ref().is_ok_and(Vec::is_empty), "nobody is vouched for by nothing");
    if tls::first_contact(&tls::FirstTrust::CaPem(answer.ca_pem.clone())).is_ok() {
        assert!(fingerprints.is_ok(), "what is trusted can be compared");
    }
}
