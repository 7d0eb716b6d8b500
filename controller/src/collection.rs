//! Garbage collections: run by the gateway, remembered in the catalogue.

use tokio::sync::mpsc;
use tonic::Status;
use tracing::warn;

use holdfast_gateway::{CollectOrder, Gateway};
use holdfast_vault_engine::{CollectionProgress, CollectionReport, chain};

use crate::app::App;
use crate::store::collection::{HeldRow, Occasion, ReportRow};

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
    let collected = gateway.collect(order, progress).await.map(|report| row(&report));
    let outcome = collected.clone().map_err(|status| status.message().to_owned());
    if let Err(error) = app.store.end_collection(id, outcome).await {
        warn!(error = &error as &dyn std::error::Error, "the end of a collection is not recorded");
    }
    collected.map(Some)
}

/// What a collection would do.
pub(crate) async fn plan(
    gateway: &Gateway,
    order: CollectOrder,
    progress: mpsc::Sender<CollectionProgress>,
) -> Result<ReportRow, Status> {
    gateway.collect(order, progress).await.map(|report| row(&report))
}

fn row(report: &CollectionReport) -> ReportRow {
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
    }
}
