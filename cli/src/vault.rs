use serde::Serialize;

use holdfast_proto::v1::{
    self, CollectGarbageRequest, CollectionProgress, GetVaultRequest, RebuildCatalogueRequest,
    collect_garbage_response::Kind,
};

use crate::args::GcArgs;
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size};
use crate::progress::{Progress, next, said};
use crate::view::{or_dash, some, time};

#[derive(Debug, Serialize)]
struct Vault {
    id: String,
    listed_points: u64,
    damaged_points: u64,
    soft_deleted_points: u64,
    stored_bytes: u64,
    free_bytes: Option<u64>,
    last_collection: Option<Collection>,
    /// It may have been broken off.
    collecting_since: Option<String>,
}

#[derive(Debug, Serialize)]
struct Collection {
    started_at: Option<String>,
    finished_at: Option<String>,
    actor: String,
    report: Report,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    purged_points: u64,
    condemned_segments: u64,
    condemned_bytes: u64,
    deleted_segments: u64,
    deleted_bytes: u64,
    compacted_segments: u64,
    compacted_bytes: u64,
    waiting_backups: u32,
    held_machines: Vec<Held>,
    read_bytes: u64,
    clock_leap_seconds: Option<i64>,
    /// At most 1000.
    purged: Vec<Purged>,
    /// At most 1000.
    waiting: Vec<Waiting>,
}

#[derive(Debug, Serialize)]
struct Held {
    machine_id: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Purged {
    point: Option<String>,
    machine: Option<String>,
    machine_id: String,
    seq: u64,
}

#[derive(Debug, Serialize)]
struct Waiting {
    machine: Option<String>,
    machine_id: String,
    seq: u64,
}

pub(crate) async fn status(client: Client, output: Output) -> Result<(), CliError> {
    let answer = again(|| {
        let mut vaults = client.vault();
        async move { vaults.get_vault(timed(GetVaultRequest {})).await }
    })
    .await?;
    let vault = Vault {
        id: answer.id,
        listed_points: answer.listed_points,
        damaged_points: answer.damaged_points,
        soft_deleted_points: answer.soft_deleted_points,
        stored_bytes: answer.stored_bytes,
        free_bytes: answer.free_bytes,
        last_collection: answer.last_collection.map(|last| Collection {
            started_at: time(last.started_at),
            finished_at: time(last.finished_at),
            actor: last.actor,
            report: Report::new(last.report.unwrap_or_default(), false),
        }),
        collecting_since: time(answer.collecting_since),
    };
    output.print(&vault, || {
        let last = vault.last_collection.as_ref();
        let collecting = vault.collecting_since.as_ref().map_or_else(String::new, |since| {
            format!("\ncollecting       since {since}, unless it was broken off")
        });
        format!(
            "vault            {}\npoints           {} listed, {} damaged, {} deleted\nstored           {}\nfree             {}\n\
             last collection  {}\nits result       {}{collecting}",
            vault.id,
            vault.listed_points,
            vault.damaged_points,
            vault.soft_deleted_points,
            size(vault.stored_bytes),
            or_dash(vault.free_bytes.map(size).as_deref()),
            or_dash(last.and_then(|last| last.finished_at.as_deref())),
            last.map_or("-".to_owned(), |last| last.report.tell()),
        )
    })
}

#[derive(Debug, Serialize)]
struct Rebuilt {
    machines: u64,
    added_machines: u64,
    added_points: u64,
    damaged_points: u64,
}

pub(crate) async fn rebuild_catalogue(client: Client, output: Output) -> Result<(), CliError> {
    // No deadline: a vault may be large.
    let answer = again(|| {
        let mut vaults = client.vault();
        async move { vaults.rebuild_catalogue(RebuildCatalogueRequest {}).await }
    })
    .await?;
    let rebuilt = Rebuilt {
        machines: answer.machines,
        added_machines: answer.added_machines,
        added_points: answer.added_points,
        damaged_points: answer.damaged_points,
    };
    output.print(&rebuilt, || {
        format!(
            "added {} of {} machines and {} points; {} points cannot be read",
            rebuilt.added_machines, rebuilt.machines, rebuilt.added_points, rebuilt.damaged_points
        )
    })
}

/// Collects, and shows how far it is.
pub(crate) async fn gc(client: Client, output: Output, args: GcArgs) -> Result<(), CliError> {
    let GcArgs { dry_run, trust_clock, compact_all } = args;
    let request = CollectGarbageRequest { dry_run, trust_clock, compact_all };
    let mut answers = said(client.vault().collect_garbage(request)).await?.into_inner();
    let mut progress = Progress::new(output, "collect          {wide_bar} {pos}/{len} machines  {msg}");
    let mut report = None;
    while let Some(answer) = next(&mut answers).await? {
        match answer.kind {
            Some(Kind::Progress(so_far)) => show(&mut progress, so_far),
            Some(Kind::Report(found)) => report = Some(Report::new(found, dry_run)),
            None => {}
        }
    }
    drop(progress);
    let report =
        report.ok_or_else(|| CliError::Lost { detail: "the collection did not tell its end".to_owned() })?;
    output.print(&report, || report.tell_all())
}

impl Report {
    fn new(report: v1::CollectionReport, dry_run: bool) -> Self {
        let held = report.held_machines.into_iter();
        Self {
            dry_run,
            purged_points: report.purged_points,
            condemned_segments: report.condemned_segments,
            condemned_bytes: report.condemned_bytes,
            deleted_segments: report.deleted_segments,
            deleted_bytes: report.deleted_bytes,
            compacted_segments: report.compacted_segments,
            compacted_bytes: report.compacted_bytes,
            waiting_backups: report.waiting_backups,
            held_machines: held
                .map(|held| Held { machine_id: held.machine_id, reason: held.reason })
                .collect(),
            read_bytes: report.read_bytes,
            clock_leap_seconds: report.clock_leap.map(|leap| leap.seconds),
            purged: report.purged.into_iter().map(Purged::from).collect(),
            waiting: report.waiting.into_iter().map(Waiting::from).collect(),
        }
    }

    /// As [`Self::tell`], and which points and backups those are.
    fn tell_all(&self) -> String {
        let mut text = self.tell();
        for Purged { point, machine, machine_id, seq } in &self.purged {
            let machine = machine.as_ref().unwrap_or(machine_id);
            let point = point.clone().unwrap_or_else(|| format!("point {seq}"));
            text += &format!("\n  purge  {point} of {machine}");
        }
        for Waiting { machine, machine_id, seq } in &self.waiting {
            text += &format!("\n  wait   backup {seq} of {}", machine.as_ref().unwrap_or(machine_id));
        }
        text
    }

    fn tell(&self) -> String {
        let mut text = if self.dry_run {
            format!(
                "would purge {} points and free {} in {} segments",
                self.purged_points,
                size(self.condemned_bytes),
                self.condemned_segments
            )
        } else {
            format!(
                "purged {} points, freed {} in {} segments",
                self.purged_points,
                size(self.deleted_bytes),
                self.deleted_segments
            )
        };
        text += &format!("; read {}", size(self.read_bytes));
        if self.compacted_segments > 0 {
            text += &format!(
                "\n{} {} segments anew without their dead blocks, {} smaller",
                if self.dry_run { "would write" } else { "wrote" },
                self.compacted_segments,
                size(self.compacted_bytes)
            );
        }
        if self.waiting_backups > 0 {
            text += &format!(
                "\nwaits for {} backups that began before: the next one frees what they leave",
                self.waiting_backups
            );
        }
        for held in &self.held_machines {
            text += &format!(
                "\nnothing is freed: what machine {} needs cannot be told: {}",
                held.machine_id, held.reason
            );
        }
        if let Some(seconds) = self.clock_leap_seconds {
            text += &format!(
                "\nthe clock leapt by {} h since the last collection, so no point is purged; if it is right: \
                 holdfast vault gc --trust-clock",
                seconds / 3600
            );
        }
        text
    }
}

impl From<v1::PurgedPoint> for Purged {
    fn from(purged: v1::PurgedPoint) -> Self {
        Self {
            point: some(purged.point_id),
            machine: some(purged.machine_name),
            machine_id: purged.machine_id,
            seq: purged.seq,
        }
    }
}

impl From<v1::WaitingBackup> for Waiting {
    fn from(waiting: v1::WaitingBackup) -> Self {
        Self { machine: some(waiting.machine_name), machine_id: waiting.machine_id, seq: waiting.seq }
    }
}

fn show(progress: &mut Progress, so_far: CollectionProgress) {
    let CollectionProgress { machines_done: done, machines, .. } = so_far;
    let message = format!(
        "{} to free, {} read",
        size(so_far.condemned_bytes + so_far.compacted_bytes),
        size(so_far.read_bytes)
    );
    let line = format!("collect: {done} of {machines} machines, {message}");
    progress.show((done.into(), machines.into()), message, || line);
}
