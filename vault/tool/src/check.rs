use std::io::Write as _;
use std::ops::Range;

use holdfast_vault_engine::{Finding, Vault, VerifyDepth, VerifyPace, VerifyReport, VerifyScope};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use uuid::Uuid;

use crate::args::{CheckOptions, Output};
use crate::error::ToolError;
use crate::find;

#[derive(Debug, Serialize)]
struct Checked {
    points: u64,
    segments: u64,
    read_segments: u64,
    read_bytes: u64,
    /// Of the sample.
    seed: Option<u64>,
    findings: Vec<FindingEntry>,
    /// Findings that were only counted.
    more_findings: u64,
}

#[derive(Debug, Serialize)]
struct FindingEntry {
    machine: String,
    machine_id: Uuid,
    /// `null` if no restore needs what is damaged, or the point itself cannot be read.
    point: Option<Uuid>,
    seq: Option<u64>,
    /// `null`: all disks.
    disk: Option<String>,
    /// Empty: all of the disk. The end is not included.
    ranges: Vec<Range<u64>>,
    reason: String,
}

/// Verifies, and prints what is damaged.
pub(crate) async fn check(vault: &Vault, options: CheckOptions) -> Result<(), ToolError> {
    let scope = match &options.machine {
        Some(machine) => VerifyScope::Machine(find::machine(vault, machine).await?),
        None => VerifyScope::Vault,
    };
    let depth = match options.sample {
        Some(per_10_000) => VerifyDepth::Sample { per_10_000, seed: Uuid::new_v4().as_u64_pair().0 },
        None if options.read_data => VerifyDepth::ReadData,
        None => VerifyDepth::Structure,
    };
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("check            {wide_bar} {pos}/{len} segments  {msg} ETA {eta}")
    {
        bar.set_style(style);
    }
    let tell = |so_far: holdfast_vault_engine::VerifyProgress| {
        bar.set_length(so_far.segments as u64);
        bar.set_position(so_far.segments_done as u64);
        let machine = (so_far.machines_done + 1).min(so_far.machines);
        let read = indicatif::BinaryBytes(so_far.read_bytes);
        bar.set_message(format!("machine {machine} of {}, {read} read", so_far.machines));
    };
    let report = vault.verify(scope, depth, VerifyPace::Full, tell).await.map_err(ToolError::Check)?;
    bar.finish_and_clear();
    let findings = report.findings.len() as u64 + report.more_findings;
    print(report, depth, options.output)?;
    if findings == 0 { Ok(()) } else { Err(ToolError::Damage { findings }) }
}

fn print(report: VerifyReport, depth: VerifyDepth, output: Output) -> Result<(), ToolError> {
    let checked = Checked {
        points: report.points,
        segments: report.segments,
        read_segments: report.read_segments,
        read_bytes: report.read_bytes,
        seed: match depth {
            VerifyDepth::Sample { seed, .. } => Some(seed),
            VerifyDepth::Structure | VerifyDepth::ReadData => None,
        },
        findings: report.findings.into_iter().map(FindingEntry::from).collect(),
        more_findings: report.more_findings,
    };
    let text = match output {
        Output::Json => {
            serde_json::to_string_pretty(&checked).map_err(|error| ToolError::Print(error.into()))?
        }
        Output::Table => table(&checked),
    };
    writeln!(std::io::stdout().lock(), "{text}").map_err(ToolError::Print)
}

fn table(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        let point = match (finding.point, finding.seq) {
            (Some(id), _) => format!("point {id}"),
            (None, Some(seq)) => format!("point number {seq}"),
            (None, None) => "no point".to_owned(),
        };
        let disk = finding.disk.as_deref().map(|disk| format!(", disk {disk}")).unwrap_or_default();
        let bytes: Vec<String> =
            finding.ranges.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
        let bytes = if bytes.is_empty() { String::new() } else { format!(", bytes {}", bytes.join(", ")) };
        text += &format!("machine {}, {point}{disk}{bytes}: {}\n", finding.machine, finding.reason);
    }
    text + &format!(
        "{} points; {} segments, {} of them read ({}); {} findings",
        checked.points,
        checked.segments,
        checked.read_segments,
        indicatif::BinaryBytes(checked.read_bytes),
        checked.findings.len() as u64 + checked.more_findings
    )
}

impl From<Finding> for FindingEntry {
    fn from(finding: Finding) -> Self {
        let (point, seq, disk, ranges) = match finding.point {
            Some(point) => (point.id, Some(point.seq), point.disk, point.ranges),
            None => (None, None, None, Vec::new()),
        };
        Self {
            machine: finding.machine_name,
            machine_id: finding.machine,
            point,
            seq,
            disk,
            ranges,
            reason: finding.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_are_not_listed_are_counted() {
        let checked = Checked {
            points: 1,
            segments: 2,
            read_segments: 0,
            read_bytes: 0,
            seed: None,
            findings: Vec::new(),
            more_findings: 3,
        };
        assert!(table(&checked).ends_with(" 3 findings"));
    }
}
