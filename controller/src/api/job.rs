use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use holdfast_proto::ids::{JobId, MachineId};
use holdfast_proto::v1::job_service_server::JobService;
use holdfast_proto::v1::{
    self, CancelJobRequest, GetJobRequest, Job, JobKind, ListJobsRequest, ListJobsResponse, Progress,
    StartBackupRequest, Step, WatchJobRequest,
};

use crate::app::App;
use crate::domain::job::{JobState, StepKind, StepState};
use crate::domain::name::is_disk_name;
use crate::domain::policy::{Bound, bind};
use crate::store::backup::NewBackup;
use crate::store::job::{JobFilter, JobRow, StepRow};

use super::{caller, wire};
use crate::rpc_error::invalid;

/// How often a watched job is read.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// Shortest time between two reads for one watcher.
const WATCH_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(crate) struct JobApi(pub(crate) Arc<App>);

#[tonic::async_trait]
impl JobService for JobApi {
    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<Job, Status>> + Send>>;

    async fn start_backup(&self, request: Request<StartBackupRequest>) -> Result<Response<Job>, Status> {
        let (operator, request) = caller::admin(request)?;
        let key = wire::request_key(
            &request.request_id,
            "StartBackup",
            &StartBackupRequest { request_id: String::new(), ..request.clone() }.encode_to_vec(),
        )?;
        if request.disk_names.len() > 1024 || !request.disk_names.iter().all(|name| is_disk_name(name)) {
            return Err(invalid("invalid_disk_name", "a disk's name is 1 to 64 of [A-Za-z0-9._-]"));
        }
        let machine = self.0.store.find_machine(&request.machine).await?.facts;
        let (policies, _) = self.0.store.policies().await?;
        let policy = match bind(&machine.name, &machine.labels, &policies) {
            Bound::One(policy) => Some(policy.clone()),
            Bound::None | Bound::Tie(_) => None,
        };
        let new = NewBackup {
            machine: MachineId(machine.id),
            disk_names: request.disk_names,
            requested_by: operator,
            request: key,
            policy,
        };
        let job = self.0.store.create_backup(new).await?;
        self.0.sessions.wake();
        self.read(job).await.map(Response::new)
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let request = caller::reader(request)?;
        self.read(JobId::from_wire(&request.id)?).await.map(Response::new)
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let request = caller::reader(request)?;
        let state = match request.state() {
            v1::JobState::Unspecified => None,
            state => Some(from_wire_state(state)),
        };
        let machine = match request.machine.as_str() {
            "" => None,
            name => Some(self.0.store.find_machine(name).await?.facts.id),
        };
        let before = wire::page_after(&request.page_token, |key| key.parse().ok())?;
        let page = self
            .0
            .store
            .list_jobs(JobFilter { machine, state, before }, wire::page_size(request.page_size)?)
            .await?;
        let (jobs, next_page_token) = wire::fitting(page, to_wire);
        Ok(Response::new(ListJobsResponse { jobs, next_page_token }))
    }

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = caller::reader(request)?;
        let job = JobId::from_wire(&request.id)?;
        let first = self.read(job).await?;
        let (sender, receiver) = mpsc::channel(1);
        let api = self.clone();
        self.0.tracker.spawn(async move { api.watch(job, first, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let (operator, request) = caller::admin(request)?;
        let job = JobId::from_wire(&request.id)?;
        self.0.store.request_cancel(job, &operator).await?;
        self.0.sessions.wake();
        self.read(job).await.map(Response::new)
    }
}

impl JobApi {
    async fn read(&self, job: JobId) -> Result<Job, Status> {
        self.0.store.find_job(job).await.map(to_wire).map_err(Status::from)
    }

    /// Sends the job whenever it differs from what was sent last. The database is read, so that it does not matter which
    /// controller runs the job.
    async fn watch(&self, job: JobId, first: Job, sender: mpsc::Sender<Result<Job, Status>>) {
        let mut last = first.clone();
        let mut next = Ok(first);
        let mut changes = self.0.sessions.changes();
        loop {
            let ended = next.as_ref().map_or(true, |job| job.ended_at.is_some());
            if sender.send(next).await.is_err() || ended {
                return;
            }
            next = loop {
                tokio::select! {
                    () = tokio::time::sleep(WATCH_PERIOD) => {}
                    Ok(()) = changes.changed() => {}
                    () = sender.closed() => return,
                    () = self.0.shutdown.cancelled() => return,
                }
                // Also in a fleet where jobs change all the time, a watcher asks only so often.
                tokio::time::sleep(WATCH_PAUSE).await;
                changes.mark_unchanged();
                match self.read(job).await {
                    Ok(now) if now == last => {}
                    Ok(now) => {
                        last = now.clone();
                        break Ok(now);
                    }
                    Err(status) => break Err(status),
                }
            };
        }
    }
}

fn to_wire(row: JobRow) -> Job {
    Job {
        id: row.id.to_string(),
        kind: JobKind::Backup.into(),
        state: to_wire_state(row.state).into(),
        machine_id: row.machine_id.to_string(),
        machine_name: row.machine_name,
        disk_names: row.disk_names,
        steps: row.steps.0.into_iter().map(step_to_wire).collect(),
        point_id: row.point_id.map(|id| id.to_string()).unwrap_or_default(),
        error: row.error.map(|error| wire::error_detail(error.0)),
        created_at: Some(wire::timestamp(row.created_at)),
        started_at: row.started_at.map(wire::timestamp),
        ended_at: row.ended_at.map(wire::timestamp),
        cancel_requested: row.cancel_requested,
        policy: row.policy_name.unwrap_or_default(),
        policy_revision: row.policy_revision.unwrap_or(0),
        slot: row.slot.map(wire::timestamp),
        deadline: Some(wire::timestamp(row.deadline)),
    }
}

fn step_to_wire(row: StepRow) -> Step {
    let kind = match row.kind {
        StepKind::TakeSnapshot => v1::StepKind::TakeSnapshot,
        StepKind::TransferData => v1::StepKind::TransferData,
        StepKind::ReleaseSnapshot => v1::StepKind::ReleaseSnapshot,
    };
    let state = match row.state {
        StepState::Pending => v1::StepState::Pending,
        StepState::Dispatched => v1::StepState::Dispatched,
        StepState::Running => v1::StepState::Running,
        StepState::Done => v1::StepState::Done,
        StepState::Failed => v1::StepState::Failed,
        StepState::Skipped => v1::StepState::Skipped,
    };
    Step {
        id: row.id.to_string(),
        kind: kind.into(),
        state: state.into(),
        attempt: row.attempt,
        progress: Some(Progress {
            total_bytes: row.total_bytes,
            read_bytes: row.read_bytes,
            changed_bytes: row.changed_bytes,
            sent_bytes: row.sent_bytes,
        }),
        started_at: row.started_at.map(wire::timestamp),
        ended_at: row.ended_at.map(wire::timestamp),
        error: row.error.map(wire::error_detail),
    }
}

fn to_wire_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Running => v1::JobState::Running,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::SucceededWithWarnings => v1::JobState::SucceededWithWarnings,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
        JobState::Expired => v1::JobState::Expired,
    }
}

fn from_wire_state(state: v1::JobState) -> JobState {
    match state {
        v1::JobState::Queued | v1::JobState::Unspecified => JobState::Queued,
        v1::JobState::Running => JobState::Running,
        v1::JobState::Succeeded => JobState::Succeeded,
        v1::JobState::SucceededWithWarnings => JobState::SucceededWithWarnings,
        v1::JobState::Failed => JobState::Failed,
        v1::JobState::Cancelled => JobState::Cancelled,
        v1::JobState::Expired => JobState::Expired,
    }
}
