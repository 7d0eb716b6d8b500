//! Garbage collections: run by the gateway, remembered in the catalogue.

use tokio::sync::mpsc;
use tonic::Status;
use tracing::warn;
use uuid::Uuid;

use holdfast_gateway::{CollectOrder, Gateway};
use holdfast_vault_engine::{CollectionProgress, CollectionReport, chain};

use crate::app::App;
use crate::store::collection::{HeldRow, NumberedRow, Occasion, ReportRow};

/// Points and backups that a report names of those that it counts.
const MAX_NUMBERED: usize = 1000;

/// Collects: `None` if another controller does it.
///
/// # Errors
/// What the gateway or the database answers.
pub(crate) async fn run(
    app: &App,
    gateway: &Gateway,
    occasion: Occasion,
    actor: &str,
    order: CollectOrder,
    progress: mpsc::Sender<CollectionProgress>,
) -> Result<Option<ReportRow>, Status> {
    let Some(id) = app.store.begin_collection(occasion, actor).await? else { return Ok(None) };
    let collected = match gateway.collect(order, progress).await {
        Ok(report) => Ok(row(app, &report).await),
        Err(status) => Err(status),
    };
    let outcome = collected.clone().map_err(|status| status.message().to_owned());
    if let Err(error) = app.store.end_collection(id, outcome).await {
        warn!(error = &error as &dyn std::error::Error, "the end of a collection is not recorded");
    }
    collected.map(Some)
}

/// What a collection would do.
pub(crate) async fn plan(
    app: &App,
    gateway: &Gateway,
    order: CollectOrder,
    progress: mpsc::Sender<CollectionProgress>,
) -> Result<ReportRow, Status> {
    Ok(row(app, &gateway.collect(order, progress).await?).await)
}

async fn row(app: &App, report: &CollectionReport) -> ReportRow {
    let purged = first(report.purged.iter().map(|purged| (purged.machine, purged.seq)));
    let waiting = first(report.waiting_for.iter().copied());
    let (purged, waiting) = (named(app, purged).await, named(app, waiting).await);
    let held = report.held.iter().map(|(machine, error)| HeldRow { machine: *machine, reason: chain(error) });
    ReportRow {
        purged_points: report.purged.len() as u64,
        condemned_segments: report.condemned_segments,
        condemned_bytes: report.condemned_bytes,
        deleted_segments: report.deleted_segments,
        deleted_bytes: report.deleted_bytes,
        compacted_segments: report.compacted_segments,
        compacted_bytes: report.compacted_bytes,
        waiting_backups: u32::try_from(report.waiting_for.len()).unwrap_or(u32::MAX),
        held_machines: held.collect(),
        read_bytes: report.read_bytes,
        clock_leap_seconds: report.clock_leap.map(|leap| leap.as_secs()),
        purged,
        waiting,
    }
}

fn first(all: impl Iterator<Item = (Uuid, u64)>) -> Vec<(Uuid, i64)> {
    all.take(MAX_NUMBERED).map(|(machine, seq)| (machine, i64::try_from(seq).unwrap_or(i64::MAX))).collect()
}

/// With what the catalogue knows of them; none if it does not answer.
async fn named(app: &App, numbers: Vec<(Uuid, i64)>) -> Vec<NumberedRow> {
    app.store.numbered(numbers).await.unwrap_or_else(|error| {
        warn!(error = &error as &dyn std::error::Error, "what a collection purged or waits for is not named");
        Vec::new()
    })
}
