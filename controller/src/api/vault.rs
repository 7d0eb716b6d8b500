use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use holdfast_gateway::Gateway;
use holdfast_proto::v1::vault_service_server::VaultService;
use holdfast_proto::v1::{
    CollectGarbageRequest, CollectGarbageResponse, CollectionProgress, CollectionReport, GarbageCollection,
    GetVaultRequest, HeldMachine, Vault, collect_garbage_response,
};
use holdfast_vault_engine::{ClockTrust, CollectionProgress as Progress};

use crate::app::App;
use crate::collection;
use crate::store::collection::{Occasion, ReportRow};

use super::{caller, wire};

/// Answers that may wait for the operator.
const OUTBOUND: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct VaultApi {
    pub(crate) app: Arc<App>,
    pub(crate) gateway: Gateway,
}

#[tonic::async_trait]
impl VaultService for VaultApi {
    type CollectGarbageStream = Pin<Box<dyn Stream<Item = Result<CollectGarbageResponse, Status>> + Send>>;

    async fn get_vault(&self, request: Request<GetVaultRequest>) -> Result<Response<Vault>, Status> {
        caller::reader(&request)?;
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
        }))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<Self::CollectGarbageStream>, Status> {
        let operator = caller::admin(&request)?.name.clone();
        let (outbound, answers) = mpsc::channel(OUTBOUND);
        let api = self.clone();
        let work = async move {
            tokio::select! {
                () = api.collect(request.into_inner(), &operator, &outbound) => {}
                // What it began the next one finishes.
                () = outbound.closed() => {}
                () = api.app.shutdown.cancelled() => {}
            }
        };
        self.app.tracker.spawn(work);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl VaultApi {
    async fn collect(
        &self,
        request: CollectGarbageRequest,
        operator: &str,
        outbound: &mpsc::Sender<Result<CollectGarbageResponse, Status>>,
    ) {
        use collect_garbage_response::Kind;

        let clock = if request.trust_clock { ClockTrust::Trusted } else { ClockTrust::Checked };
        let (progress, mut told) = mpsc::channel(1);
        let collected = async {
            if request.dry_run {
                return collection::plan(&self.gateway, clock, progress).await;
            }
            collection::run(&self.app, &self.gateway, Occasion::Operator, operator, clock, progress)
                .await
                .map(Option::unwrap_or_default)
        };
        let forward = async {
            while let Some(so_far) = told.recv().await {
                let answer = CollectGarbageResponse { kind: Some(Kind::Progress(progress_to_wire(so_far))) };
                let _ = outbound.send(Ok(answer)).await;
            }
        };
        let (collected, ()) = tokio::join!(collected, forward);
        let answer = collected.map(|row| CollectGarbageResponse { kind: Some(Kind::Report(report(row))) });
        let _ = outbound.send(answer).await;
    }
}

fn progress_to_wire(so_far: Progress) -> CollectionProgress {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    CollectionProgress {
        machines_done: count(so_far.machines_done),
        machines: count(so_far.machines),
        condemned_bytes: so_far.condemned_bytes,
        read_bytes: so_far.read_bytes,
    }
}

fn report(row: ReportRow) -> CollectionReport {
    let held = row
        .held_machines
        .into_iter()
        .map(|held| HeldMachine { machine_id: held.machine.to_string(), reason: held.reason });
    CollectionReport {
        purged_points: row.purged_points,
        condemned_segments: row.condemned_segments,
        condemned_bytes: row.condemned_bytes,
        deleted_segments: row.deleted_segments,
        deleted_bytes: row.deleted_bytes,
        waiting_backups: row.waiting_backups,
        held_machines: held.collect(),
        read_bytes: row.read_bytes,
        clock_leap: row.clock_leap_seconds.map(|seconds| prost_types::Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
    }
}
