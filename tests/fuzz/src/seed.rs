//! Writes what the targets begin with into `DIR/<target>/`: real objects, messages and files.

use std::fs;
use std::path::Path;

use holdfast_fuzz::sample::{self, BLOCKS, OBJECTS, Parts};
use holdfast_fuzz::vault::{
    KEY, KEY_FILE, MACHINE, VAULT, encrypt, header, key_file, plain_keys, ring, wrapped_keys,
};
use holdfast_proto::v1;
use holdfast_vault_engine::{Extent, NewCell};
use holdfast_vault_format::container::{Kind, open_record};
use holdfast_vault_format::delta::{DeltaRoot, PageRef};
use holdfast_vault_format::recipient::{Argon2id, Recipient, SECRET_LEN, Wrap};
use holdfast_vault_format::record::{Abort, Point};
use holdfast_vault_format::{Codec, cell_hash};
use libfuzzer_sys as _;
use prost::Message;
use uuid::Uuid;

fn main() {
    let dir = std::env::args().nth(1).expect("usage: seed DIR");
    let mut seeds = Seeds { dir: dir.into(), number: 0 };
    vault(&mut seeds);
    wire(&mut seeds);
    texts(&mut seeds);
    for (target, count) in [
        ("read_point", 40),
        ("take_over", 40),
        ("cell_frames", 20),
        ("disk_frames", 20),
        ("block_map", 20),
        ("container", 20),
    ] {
        noise(&mut seeds, target, count);
    }
}

struct Seeds {
    dir: std::path::PathBuf,
    number: u32,
}

impl Seeds {
    fn put(&mut self, target: &str, parts: &[&[u8]]) {
        let dir = self.dir.join(target);
        fs::create_dir_all(&dir).expect("the directory can be made");
        self.number += 1;
        fs::write(Path::new(&dir).join(format!("seed-{:04}", self.number)), parts.concat())
            .expect("it can be written");
    }
}

fn vault(seeds: &mut Seeds) {
    for (index, (name, bytes)) in (0_u8..).zip(OBJECTS.iter()) {
        seeds.put("container", &[&[index << 1], bytes]);
        seeds.put("container", &[&[index << 1 | 1], &[0, 40, 0, 1, 0, 3, 7, 9]]);
        let Ok((kind, body)) = open_record(&ring(), name, bytes) else {
            let parts = Parts::open(name, bytes).expect("it is a segment");
            let directory = parts.directory.encode();
            let len = u16::try_from(directory.len()).expect("it is small");
            seeds.put("segment", &[&len.to_le_bytes(), &directory, &parts.table]);
            continue;
        };
        match kind {
            Kind::Point => {
                let encoded = &body[..body.len() - 64];
                seeds.put("record", &[&[0], encoded]);
                seeds.put("record", &[&[3], &body]);
                deltas(seeds, &Point::decode(encoded).expect("it is a point"));
            }
            _ => seeds.put("record", &[&[1], &body]),
        }
    }
    let abort = Abort { machine: MACHINE, seq: 4, reason: "another attempt began".to_owned() };
    seeds.put("record", &[&[2], &abort.encode()]);
    // Of the first recipient, and of one that is not there.
    for removed in [KEY, MACHINE] {
        seeds.put("record", &[&[8], removed.as_bytes()]);
    }
    for blocks in [1, 2, 32] {
        let cell = made_cell(0, blocks);
        seeds.put("cell", &[&[u8::try_from(blocks - 1).expect("few") << 1], &cell.data]);
    }
    seeds.put("cell", &[&[1], &sample::plain(1, 7)]);
    seeds.put("vault_files", &[&[0], &header()]);
    seeds.put("vault_files", &[&[1], &wrapped_keys()]);
    seeds.put("vault_files", &[&[2], &plain_keys()]);
    for wrap in [
        Wrap::Identity { public: key_file().public(), wrapped: encrypt(&[7; 32]) },
        Wrap::Passphrase(Argon2id { memory_kib: 8 << 10, passes: 1, lanes: 1, salt: [1; 16] }),
    ] {
        let recipient =
            Recipient { vault: VAULT, key: KEY, id: MACHINE, created_at: 1, label: "safe".to_owned(), wrap };
        let sealed = recipient.seal(&[7; 32], &[3; SECRET_LEN]).expect("it is within its limits");
        seeds.put("vault_files", &[&[5], &sealed]);
    }
    seeds.put("vault_files", &[&[3], b"# a key\n\n", KEY_FILE.as_bytes()]);
    let names = "00000000000000000001\n00000000000000000002#1\n00000000000000000003/00000000.0\n1\n";
    seeds.put("vault_files", &[&[4], names.as_bytes()]);
}

fn deltas(seeds: &mut Seeds, point: &Point) {
    let cell = |seq: u64, segment: u32, cell: u32| {
        let name = holdfast_fuzz::vault::segment_name(seq, segment);
        let (_, bytes) = OBJECTS.iter().find(|(other, _)| *other == name).expect("it is there");
        Parts::open(&name, bytes).expect("it is a segment").cells[cell as usize].clone()
    };
    for delta in point.disks.iter().flat_map(|disk| &disk.stack) {
        let root: Vec<u8> =
            delta.parts.iter().flat_map(|part| cell(delta.seq, part.segment, part.cell)).collect();
        seeds.put("delta", &[&[0], &root]);
        let root = DeltaRoot::decode(&root).expect("it is a root");
        let mut pages = |mode: u8, pages: &[PageRef]| {
            for page in pages {
                let bounds = u128::from(page.first_block) << 64 | u128::from(page.end_block);
                let bytes = cell(delta.seq, page.place.segment, page.place.cell);
                seeds.put("delta", &[&[mode], &bounds.to_le_bytes(), &bytes]);
            }
        };
        pages(1, &root.extent_pages);
        pages(2, &root.hash_pages);
    }
}

fn made_cell(first_block: u64, block_count: u64) -> NewCell {
    sample::cell(Extent { first_block, block_count }, 7)
}

fn wire(seeds: &mut Seeds) {
    let codec = |codec: Codec| if codec == Codec::Raw { v1::Codec::Raw } else { v1::Codec::Zstd };
    let extent =
        |extent: &Extent| v1::Extent { first_block: extent.first_block, block_count: extent.block_count };
    let zeros = vec![v1::Extent { first_block: 30, block_count: 5 }];
    let (mut frames, mut restored) = (vec![0], vec![0]);
    restored.extend_from_slice(&(BLOCKS * 4096 - 100).to_le_bytes());
    for (first, count) in [(0, 3), (5, 2), (2, 2)] {
        let cell = made_cell(first, count);
        let sent = v1::Cell {
            codec: codec(cell.codec).into(),
            plain_bytes: cell.plain_bytes,
            extents: cell.extents.iter().map(extent).collect(),
            data: cell.data.clone(),
        };
        let frame = v1::CellFrame {
            transfer_id: "x".to_owned(),
            frame: first,
            disk_name: "a".to_owned(),
            cells: vec![sent],
            zero_extents: zeros.clone(),
        };
        frame.encode_length_delimited(&mut frames).expect("a vector grows");
        let got = v1::RestoredCell {
            codec: codec(cell.codec).into(),
            plain_bytes: cell.plain_bytes,
            plain_hash: cell_hash(&sample::plain(count, 7)).to_vec(),
            pieces: vec![v1::Piece { cell_block: 0, extent: Some(extent(&cell.extents[0])) }],
            data: cell.data,
        };
        let frame = v1::DiskCells { cells: vec![got], zero_extents: Vec::new() };
        frame.encode_length_delimited(&mut restored).expect("a vector grows");
    }
    seeds.put("cell_frames", &[&frames, &[0]]);
    seeds.put("disk_frames", &[&restored]);
    let rest = v1::DiskCells {
        cells: Vec::new(),
        zero_extents: vec![v1::Extent { first_block: 0, block_count: BLOCKS }],
    };
    seeds.put(
        "disk_frames",
        &[&[0], &(BLOCKS * 4096 - 100).to_le_bytes(), &rest.encode_length_delimited_to_vec()],
    );
    let hashes = (1..20_u64).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
    let runs = [
        v1::BlockMapRun { first_block: 2, blocks: Some(v1::block_map_run::Blocks::Hashes(hashes.into())) },
        v1::BlockMapRun { first_block: 40, blocks: Some(v1::block_map_run::Blocks::ZeroCount(9)) },
    ];
    let runs: Vec<u8> = runs.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    let len = u16::try_from(runs.len()).expect("it is short");
    seeds.put("block_map", &[&[2], &60_u64.to_le_bytes(), &len.to_le_bytes(), &runs, &runs]);
    messages(seeds);
}

fn messages(seeds: &mut Seeds) {
    use v1::agent_message::Kind;
    use v1::step_report::Outcome;
    let attempt = Some(v1::StepAttempt { step_id: Uuid::from_u128(5).to_string(), attempt: 2 });
    let disks = vec![v1::Disk { name: "sda".to_owned(), size_bytes: 1 << 30 }];
    let error = v1::ErrorDetail {
        code: "hook_failed".to_owned(),
        fault: v1::Fault::User.into(),
        retryable: true,
        message: "hook".to_owned(),
        action: "look".to_owned(),
    };
    let hello = v1::Hello {
        boot_id: Uuid::from_u128(1).to_string(),
        agent_version: "0.1.0".to_owned(),
        disks: disks.clone(),
        snapshot_ids: vec![Uuid::from_u128(3).to_string()],
        settled_snapshot_ids: vec![Uuid::from_u128(3).to_string()],
        running: attempt.clone().into_iter().collect(),
    };
    let taken = v1::SnapshotTaken {
        snapshot_id: Uuid::from_u128(3).to_string(),
        consistency: v1::Consistency::FileSystem.into(),
        disks: disks.clone(),
        taken_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        warnings: vec![error.clone(), error.clone()],
    };
    let outcomes = [
        Outcome::Progress(v1::Progress { total_bytes: 9, read_bytes: 8, changed_bytes: 7, sent_bytes: 6 }),
        Outcome::SnapshotTaken(taken),
        Outcome::TransferDone(v1::TransferDone { point_id: Uuid::from_u128(4).to_string() }),
        Outcome::Failed(error),
    ];
    let mut kinds = vec![
        Kind::Hello(hello),
        Kind::DisksChanged(v1::DisksChanged { disks }),
        Kind::Pong(v1::Pong { nonce: 3 }),
    ];
    for outcome in outcomes {
        let report = v1::StepReport { attempt: attempt.clone(), sequence: 3, outcome: Some(outcome) };
        seeds.put("spooled_report", &[&[0], &report.encode_to_vec()]);
        kinds.push(Kind::Report(report));
    }
    for kind in kinds {
        seeds.put("agent_message", &[&v1::AgentMessage { kind: Some(kind) }.encode_to_vec()]);
    }
    answers(seeds, attempt);
}

/// What an agent is told.
fn answers(seeds: &mut Seeds, attempt: Option<v1::StepAttempt>) {
    use v1::controller_message::Kind;
    use v1::dispatch::Step;
    let snapshot_id = Uuid::from_u128(3).to_string();
    let verdict = v1::AttemptVerdict { attempt: attempt.clone(), verdict: v1::Verdict::Abandon.into() };
    let welcome = v1::Welcome {
        heartbeat_interval: Some(prost_types::Duration { seconds: 15, nanos: 5 }),
        attempts: vec![verdict],
        remove_snapshot_ids: vec![snapshot_id.clone()],
    };
    let mut kinds = vec![
        Kind::Welcome(welcome),
        Kind::Cancel(v1::CancelStep { attempt: attempt.clone() }),
        Kind::Ack(v1::ReportAck {
            attempt: attempt.clone(),
            sequence: 3,
            result: v1::AckResult::Recorded.into(),
        }),
    ];
    let gateways = vec!["gw1:7443".to_owned(), "[::1]:1".to_owned()];
    for step in [
        Step::TakeSnapshot(v1::TakeSnapshot {
            disk_names: vec!["data".to_owned()],
            minimum: v1::Consistency::Crash.into(),
        }),
        Step::TransferData(v1::TransferData { snapshot_id: snapshot_id.clone(), gateways }),
        Step::ReleaseSnapshot(v1::ReleaseSnapshot { snapshot_id }),
    ] {
        kinds.push(Kind::Dispatch(v1::Dispatch { attempt: attempt.clone(), step: Some(step) }));
    }
    for kind in kinds {
        let message = v1::ControllerMessage { kind: Some(kind) };
        seeds.put("controller_message", &[&[0], &message.encode_to_vec()]);
    }
    let base = |name: &str| v1::DiskBase {
        name: name.to_owned(),
        base_size_bytes: 1 << 30,
        block_hash_key: vec![3; 32],
        base_map_id: vec![4; 32],
        has_overlay: true,
    };
    let answer = v1::OpenTransferResponse {
        transfer_id: "transfer".to_owned(),
        disks: vec![base("root"), base("data")],
        max_cell_bytes: 1 << 17,
        committed_point_id: String::new(),
    };
    // Of both disks, and of one.
    for asked in [4, 1] {
        seeds.put("controller_message", &[&[1, asked], &answer.encode_to_vec()]);
    }
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    let ca = rcgen::CertificateParams::default().self_signed(&key).expect("it can be signed").pem();
    let enrolled = v1::EnrollResponse {
        agent_id: Uuid::from_u128(1).to_string(),
        machine_id: Uuid::from_u128(2).to_string(),
        certificate_chain_pem: ca.clone(),
        ca_pem: ca,
    };
    seeds.put("controller_message", &[&[2], &enrolled.encode_to_vec()]);
}

const POLICY: &str = "name: daily\nselector: {env: prod}\nschedule: {cron: '0 2 * * *', time_zone: Europe/Berlin}\n\
    retention: {last: 1, daily: 7, weekly: 4, monthly: 12, yearly: 3}\nconsistency: {minimum: file_system}\n\
    complete_within: 24h\n---\nname: second\nmachines: [web1]\nschedule: {every: 15m}\ndisks: [data]\n";
const JOURNAL: &str = r#"{"snapshot":"00000000-0000-0000-0000-000000000003","step":"00000000-0000-0000-0000-000000000005",
    "phase":"taking","frozen":[{"major":7,"minor":300,"mount_point":"/mnt/a b"}],
    "clones":[{"disk":"data","directory":"/srv/.holdfast-snapshots","size_bytes":18446744073709551615}]}"#;
const CONFIG: &str = "controller = \"https://controller.example:7443\"\nstate_dir = \"/var/lib/holdfast-agent\"\n\
    discover = false\nallowed_gateways = [\"gw1\", \"gw2:9000\", \"[::1]:1\"]\nupload_streams = 2\ncompression_level = 1\n\
    [[disk]]\nname = \"data\"\npath = \"/srv/data.raw\"\n[hooks]\nbefore_snapshot = \"/etc/b\"\ntimeout = \"30s\"\n\
    on_failure = \"fail\"\n[timing]\nreconnect_min = \"500ms\"\n[snapshot]\nfreeze_limit = \"5s\"\nmax_extents = 9\n\
    controller.example:1";

fn texts(seeds: &mut Seeds) {
    seeds.put("policy_file", &[POLICY.as_bytes()]);
    for phase in ["taking", "taken", "bound"] {
        seeds.put("snapshot_journal", &[JOURNAL.replace("taking", phase).as_bytes()]);
    }
    seeds.put("agent_config", &[CONFIG.as_bytes()]);
    seeds.put("agent_config", &[b"controller = \"https://c:1\"\nstate_dir = \"/s\"\n[::1]:1"]);
    let at = (1_700_000_000_i64 << 20).to_le_bytes();
    let document = r#"{"selector":{"env":"prod"},"schedule":{"cron":"*/5 2-4 L * MON#1","time_zone":"Europe/Berlin"},
        "retention":{"daily":7},"minimum_consistency":"crash","complete_within":"1d","disks":["data"]}"#;
    seeds.put("policy_document", &[&[0], &at, document.as_bytes()]);
    for cron in
        ["0 2 * * * Europe/Berlin", "30 1,13 15W JAN-MAR/2 1-5 America/New_York", "@hourly Asia/Kathmandu"]
    {
        seeds.put("policy_document", &[&[1], &at, cron.as_bytes()]);
    }
    seeds.put("policy_document", &[&[2], &at, b"1h30m"]);
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key can be made");
        let request =
            rcgen::CertificateParams::default().serialize_request(&key).expect("a request can be made");
        seeds.put("certificate_request", &[request.der()]);
    }
}

/// Bytes for targets that build what they need from whatever comes; the same each time.
fn noise(seeds: &mut Seeds, target: &str, count: u64) {
    for seed in 0..count {
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; 40 << (seed % 6)];
        reader.fill(&mut bytes);
        bytes[0] |= 1;
        seeds.put(target, &[&bytes]);
    }
}
