mod answers;
mod report;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use holdfast_gateway::{CollectMode, CollectOrder, Gateway, VerifyTarget};
use holdfast_proto::ids::MachineId;
use holdfast_proto::v1::vault_service_server::VaultService;
use holdfast_proto::v1::{
    CheckDepth, CheckReport, CheckVaultRequest, CheckVaultResponse, CollectGarbageRequest,
    CollectGarbageResponse, GarbageCollection, GetVaultRequest, RebuildCatalogueRequest,
    RebuildCatalogueResponse, Vault, check_vault_response, collect_garbage_response,
};
use holdfast_vault_engine::{ClockTrust, Compaction, VerifyDepth};

use crate::app::App;
use crate::collection;
use crate::rpc_error::invalid;
use crate::store::collection::Occasion;

use super::{caller, wire};
use answers::Answers;
use report::{check_progress, finding, progress_to_wire, report};

/// How often an operator hears how far something is, news or not: whoever hears nothing takes the controller for one that hangs.
const TELL_EVERY: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct VaultApi {
    pub(crate) app: Arc<App>,
    pub(crate) gateway: Gateway,
}

#[tonic::async_trait]
impl VaultService for VaultApi {
    type CheckVaultStream = Pin<Box<dyn Stream<Item = Result<CheckVaultResponse, Status>> + Send>>;
    type CollectGarbageStream = Pin<Box<dyn Stream<Item = Result<CollectGarbageResponse, Status>> + Send>>;

    async fn get_vault(&self, request: Request<GetVaultRequest>) -> Result<Response<Vault>, Status> {
        let GetVaultRequest {} = caller::reader(request)?;
        let row = self.app.store.vault().await?;
        let last = self.app.store.last_collection().await?.map(|row| GarbageCollection {
            started_at: Some(wire::timestamp(row.started_at)),
            finished_at: Some(wire::timestamp(row.finished_at)),
            actor: row.actor,
            report: Some(report(row.report.0)),
        });
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Response::new(Vault {
            id: self.app.vault_id.to_string(),
            listed_points: count(row.listed_points),
            damaged_points: count(row.damaged_points),
            soft_deleted_points: count(row.soft_deleted_points),
            stored_bytes: count(row.stored_bytes),
            last_collection: last,
            collecting_since: self.app.store.collecting_since().await?.map(wire::timestamp),
            free_bytes: self.gateway.vault_free_bytes().await,
        }))
    }

    async fn check_vault(
        &self,
        request: Request<CheckVaultRequest>,
    ) -> Result<Response<Self::CheckVaultStream>, Status> {
        let (operator, request) = caller::admin(request)?;
        let order = check_order(&self.app, request).await?;
        let (outbound, answers) = Answers::new();
        let api = self.clone();
        let work = async move {
            tokio::select! {
                () = api.check(order, &operator, &outbound) => {}
                () = outbound.abandoned() => {}
                () = api.app.shutdown.cancelled() => {}
            }
        };
        self.app.tracker.spawn(work);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn rebuild_catalogue(
        &self,
        request: Request<RebuildCatalogueRequest>,
    ) -> Result<Response<RebuildCatalogueResponse>, Status> {
        let (operator, RebuildCatalogueRequest {}) = caller::admin(request)?;
        let rebuilt = self.gateway.rebuild_catalogue(&operator).await?;
        Ok(Response::new(RebuildCatalogueResponse {
            machines: rebuilt.machines,
            added_machines: rebuilt.added_machines,
            added_points: rebuilt.added_points,
            damaged_points: rebuilt.damaged_points,
        }))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<Self::CollectGarbageStream>, Status> {
        let (operator, request) = caller::admin(request)?;
        let (outbound, answers) = Answers::new();
        let api = self.clone();
        let work = async move {
            tokio::select! {
                () = api.collect(request, &operator, &outbound) => {}
                // What it began the next one finishes.
                () = outbound.abandoned() => {}
                () = api.app.shutdown.cancelled() => {}
            }
        };
        self.app.tracker.spawn(work);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// What is to be verified, and how closely.
async fn check_order(app: &App, request: CheckVaultRequest) -> Result<(VerifyTarget, VerifyDepth), Status> {
    let depth = match (request.depth(), request.sample_per_10000) {
        (CheckDepth::Unspecified | CheckDepth::Structure, _) => VerifyDepth::Structure,
        (CheckDepth::ReadData, _) => VerifyDepth::ReadData,
        (CheckDepth::Sample, per_10_000 @ 1..=10_000) => {
            VerifyDepth::Sample { per_10_000, seed: rand::random() }
        }
        (CheckDepth::Sample, _) => {
            return Err(invalid("invalid_sample", "sample_per_10000 must be 1 to 10000"));
        }
    };
    let target = match (request.machine.as_str(), request.point.as_str()) {
        ("", "") => VerifyTarget::Vault,
        (machine, "") => VerifyTarget::Machine(MachineId(app.store.find_machine(machine).await?.facts.id)),
        ("", point) => VerifyTarget::Point(app.store.resolve_point(point).await?.catalogued().location),
        _ => return Err(invalid("invalid_check", "name a machine or a point, not both")),
    };
    Ok((target, depth))
}

impl VaultApi {
    async fn check(
        &self,
        (target, depth): (VerifyTarget, VerifyDepth),
        operator: &str,
        outbound: &Answers<CheckVaultResponse>,
    ) {
        use check_vault_response::Kind;

        let answer = |kind| CheckVaultResponse { kind: Some(kind) };
        let (progress, told) = mpsc::channel(1);
        let forward = self.forward(told, outbound, check_progress, |so_far| answer(Kind::Progress(so_far)));
        let (checked, ()) = tokio::join!(self.gateway.verify(target, depth, operator, progress), forward);
        let report = match checked {
            Ok(report) => report,
            Err(status) => return drop(outbound.send(Err(status)).await),
        };
        let sum = CheckReport {
            points: report.points,
            segments: report.segments,
            read_segments: report.read_segments,
            read_bytes: report.read_bytes,
            findings: report.findings.len() as u64 + report.more_findings,
            damaged_points: report.damaged.values().map(|points| points.len() as u64).sum(),
        };
        for found in report.findings {
            if outbound.send(Ok(answer(Kind::Finding(finding(found))))).await.is_err() {
                return;
            }
        }
        let _ = outbound.send(Ok(answer(Kind::Report(sum)))).await;
    }

    async fn collect(
        &self,
        request: CollectGarbageRequest,
        operator: &str,
        outbound: &Answers<CollectGarbageResponse>,
    ) {
        use collect_garbage_response::Kind;

        let order = CollectOrder {
            mode: if request.dry_run { CollectMode::DryRun } else { CollectMode::Collect },
            clock: if request.trust_clock { ClockTrust::Trusted } else { ClockTrust::Checked },
            compaction: if request.compact_all { Compaction::All } else { Compaction::Due },
        };
        let (progress, told) = mpsc::channel(1);
        let collected = async {
            if order.mode == CollectMode::DryRun {
                return collection::plan(&self.app, &self.gateway, order, progress).await;
            }
            collection::run(&self.app, &self.gateway, Occasion::Operator, operator, order, progress)
                .await
                .map(Option::unwrap_or_default)
        };
        let forward = self.forward(told, outbound, progress_to_wire, |so_far| CollectGarbageResponse {
            kind: Some(Kind::Progress(so_far)),
        });
        let (collected, ()) = tokio::join!(collected, forward);
        let answer = collected.map(|row| CollectGarbageResponse { kind: Some(Kind::Report(report(row))) });
        let _ = outbound.send(answer).await;
    }

    /// Tells what is told until that ends, and again while there is no news, as long as the vault answers.
    async fn forward<P, W: Clone + Default, T>(
        &self,
        mut told: mpsc::Receiver<P>,
        outbound: &Answers<T>,
        to_wire: fn(P) -> W,
        answer: impl Fn(W) -> T,
    ) {
        let mut last = W::default();
        loop {
            match tokio::time::timeout(TELL_EVERY, told.recv()).await {
                Ok(Some(so_far)) => last = to_wire(so_far),
                Ok(None) => return,
                Err(_) if self.gateway.vault_error().await.is_some() => continue,
                Err(_) => {}
            }
            outbound.offer(answer(last.clone()));
        }
    }
}
