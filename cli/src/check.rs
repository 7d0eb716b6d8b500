//! Verification: `holdfast vault check` and `holdfast point verify`.

use serde::Serialize;

use holdfast_proto::v1::{self, CheckDepth, CheckProgress, CheckVaultRequest, check_vault_response::Kind};

use crate::args::CheckArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, size, table};
use crate::progress::{Progress, next, said};
use crate::view::{or_dash, some};

/// Ranges that a table shows.
const SHOWN: usize = 3;

#[derive(Debug, Serialize)]
struct Checked {
    points: u64,
    damaged_points: u64,
    segments: u64,
    read_segments: u64,
    read_bytes: u64,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    machine: String,
    machine_id: String,
    /// `null` if no restore needs what is damaged, or the point itself cannot be read.
    point: Option<String>,
    seq: Option<u64>,
    /// `null`: all disks.
    disk: Option<String>,
    /// Empty: all of the disk.
    ranges: Vec<Range>,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Range {
    start: u64,
    end: u64,
}

pub(crate) async fn vault(client: Client, output: Output, args: CheckArgs) -> Result<(), CliError> {
    let (depth, sample_per_10000) = match args.sample {
        Some(per_10_000) => (CheckDepth::Sample, per_10_000),
        None if args.read_data => (CheckDepth::ReadData, 0),
        None => (CheckDepth::Structure, 0),
    };
    let machine = args.machine.unwrap_or_default();
    let depth = depth.into();
    run(client, output, CheckVaultRequest { machine, point: String::new(), depth, sample_per_10000 }).await
}

/// Reads all that a point needs.
pub(crate) async fn point(client: Client, output: Output, point: String) -> Result<(), CliError> {
    let depth = CheckDepth::ReadData.into();
    run(client, output, CheckVaultRequest { machine: String::new(), point, depth, sample_per_10000: 0 }).await
}

async fn run(client: Client, output: Output, request: CheckVaultRequest) -> Result<(), CliError> {
    let mut answers = said(client.vault().check_vault(request)).await?.into_inner();
    let mut progress = Progress::new(output, "check            {wide_bar} {pos}/{len} segments  {msg}");
    let (mut findings, mut report) = (Vec::new(), None);
    while let Some(answer) = next(&mut answers).await? {
        match answer.kind {
            Some(Kind::Progress(so_far)) => show(&mut progress, so_far),
            Some(Kind::Finding(finding)) => findings.push(Finding::from(finding)),
            Some(Kind::Report(found)) => report = Some(found),
            None => {}
        }
    }
    drop(progress);
    let report =
        report.ok_or_else(|| CliError::Lost { detail: "the check did not tell its end".to_owned() })?;
    let checked = Checked {
        points: report.points,
        damaged_points: report.damaged_points,
        segments: report.segments,
        read_segments: report.read_segments,
        read_bytes: report.read_bytes,
        findings,
    };
    output.print(&checked, || checked.tell())?;
    if report.findings > 0 {
        return Err(CliError::Damage { points: report.damaged_points });
    }
    Ok(())
}

impl Checked {
    fn tell(&self) -> String {
        let sum = format!(
            "{} points, {} damaged; {} segments, {} of them read ({})",
            self.points,
            self.damaged_points,
            self.segments,
            self.read_segments,
            size(self.read_bytes)
        );
        if self.findings.is_empty() {
            return sum;
        }
        let rows = self.findings.iter().map(|finding| {
            [
                finding.machine.clone(),
                match (&finding.point, finding.seq) {
                    (Some(id), _) => id.clone(),
                    (None, Some(seq)) => format!("number {seq}"),
                    (None, None) => "-".to_owned(),
                },
                or_dash(finding.disk.as_deref()),
                ranges(&finding.ranges),
                finding.reason.clone(),
            ]
        });
        table(["MACHINE", "POINT", "DISK", "BYTES", "DAMAGE"], rows) + "\n\n" + &sum
    }
}

impl From<v1::Finding> for Finding {
    fn from(finding: v1::Finding) -> Self {
        Self {
            machine: finding.machine_name,
            machine_id: finding.machine_id,
            point: some(finding.point_id),
            seq: (finding.seq > 0).then_some(finding.seq),
            disk: some(finding.disk_name),
            ranges: finding
                .ranges
                .into_iter()
                .map(|range| Range { start: range.start, end: range.end })
                .collect(),
            reason: finding.reason,
        }
    }
}

/// `0-4096`, the end not included.
fn ranges(ranges: &[Range]) -> String {
    let mut shown: Vec<String> =
        ranges.iter().take(SHOWN).map(|range| format!("{}-{}", range.start, range.end)).collect();
    match ranges.len() {
        0 => return "-".to_owned(),
        count if count > SHOWN => shown.push(format!("and {} more", count - SHOWN)),
        _ => {}
    }
    shown.join(", ")
}

fn show(progress: &mut Progress, so_far: CheckProgress) {
    let CheckProgress { segments_done: done, segments, machines, machines_done, read_bytes } = so_far;
    let machine = (machines_done + 1).min(machines);
    let message = format!("machine {machine} of {machines}, {} read", size(read_bytes));
    let line = format!("check: {message}, {done} of {segments} of its segments");
    progress.show((done.into(), segments.into()), message, || line);
}
