//! A control plane that does what a test tells it to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use uuid::Uuid;

use holdfast_gateway::{
    Authority, CataloguedPoint, CommitBegun, Decided, FoundMachine, KeptPoint, PointLocation, TransferGrant,
    UnsettledCommit, Verified,
};
use holdfast_proto::error::{ErrorDetailExt as _, agent_error, system_error, user_error};
use holdfast_proto::ids::{AgentId, MachineId, PointId, SnapshotId, StepId};
use holdfast_vault_engine::{Consistency, DiskSpec, Point, Retention, Standing};

/// A step as its row would be.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) agent: AgentId,
    pub(crate) machine: MachineId,
    pub(crate) attempt: i64,
    pub(crate) snapshot: SnapshotId,
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) cancelled: bool,
    /// Neither done nor failed.
    pub(crate) running: bool,
    pub(crate) committing: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) steps: HashMap<StepId, Step>,
    pub(crate) points: BTreeMap<(MachineId, u64), Point>,
    pub(crate) standings: BTreeMap<(MachineId, u64), Standing>,
    pub(crate) aborted: Vec<(StepId, i64)>,
    pub(crate) damaged: Vec<(PointLocation, String)>,
    pub(crate) verified: Vec<Verified>,
    /// Steps whose backup is a full one because of damage, and the point that is damaged.
    pub(crate) healing: Vec<(StepId, PointLocation)>,
    pub(crate) restores: Vec<(String, PointId, String)>,
    /// So many more calls of `mark_damaged` fail.
    pub(crate) mark_failures: u32,
    /// So many more calls of `record_point` fail.
    pub(crate) record_failures: u32,
    pub(crate) record_calls: u32,
    /// So many more calls of `begin_commit` fail after they took effect.
    pub(crate) begin_failures: u32,
    pub(crate) begin_calls: u32,
    pub(crate) authorise_calls: u32,
    /// How long a commit may take; `None`: as long as it likes.
    pub(crate) commit_lease: Option<Duration>,
    /// Commits whose lease is over.
    pub(crate) unsettled: Vec<UnsettledCommit>,
}

impl Script {
    fn decisions(&self, PointLocation { machine, seq }: PointLocation) -> u32 {
        self.standings.get(&(machine, seq)).map_or(0, |standing| standing.decisions)
    }
}

#[derive(Default)]
pub(crate) struct ScriptedAuthority {
    script: Mutex<Script>,
    /// `begin_commit` stops here when there is one.
    hold: Mutex<Option<Hold>>,
    /// `mark_damaged` of a point with this number stops here before it takes effect, once.
    hold_mark: Mutex<Option<(u64, Hold)>>,
}

/// Stops the gateway in a call of the control plane.
#[derive(Clone)]
pub(crate) struct Hold {
    reached: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl Hold {
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub(crate) fn release(&self) {
        self.released.add_permits(1);
    }
}

impl ScriptedAuthority {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(crate) fn hold_commits(&self) -> Hold {
        let hold = Hold { reached: Arc::new(Semaphore::new(0)), released: Arc::new(Semaphore::new(0)) };
        *self.hold.lock().unwrap() = Some(hold.clone());
        hold
    }

    pub(crate) fn hold_mark(&self, seq: u64) -> Hold {
        let hold = Hold { reached: Arc::new(Semaphore::new(0)), released: Arc::new(Semaphore::new(0)) };
        *self.hold_mark.lock().unwrap() = Some((seq, hold.clone()));
        hold
    }

    pub(crate) fn step(&self, step: StepId, change: impl FnOnce(&mut Step)) {
        change(self.script().steps.get_mut(&step).unwrap());
    }
}

fn stale(attempt: i64) -> Status {
    agent_error("stale_attempt", format!("attempt {attempt} is not current"))
        .into_status(Code::FailedPrecondition)
}

fn away() -> Status {
    system_error("database_unavailable", "the database is away").retryable().into_status(Code::Unavailable)
}

#[tonic::async_trait]
impl Authority for ScriptedAuthority {
    async fn authorise_transfer(
        &self,
        agent: AgentId,
        step: StepId,
        attempt: i64,
    ) -> Result<TransferGrant, Status> {
        let mut script = self.script();
        script.authorise_calls += 1;
        let row = script.steps.get(&step).ok_or_else(|| Status::not_found("no such step"))?;
        if row.agent != agent {
            return Err(
                agent_error("foreign_step", "another machine's step").into_status(Code::PermissionDenied)
            );
        }
        if row.attempt != attempt {
            return Err(stale(attempt));
        }
        Ok(TransferGrant {
            machine: row.machine,
            machine_name: "web1".to_owned(),
            consistency: Consistency::FileSystem,
            taken_at: Utc::now(),
            snapshot_id: row.snapshot,
            disks: row.disks.clone(),
            last_seq: script
                .points
                .keys()
                .filter(|(machine, _)| *machine == row.machine)
                .map(|(_, seq)| *seq)
                .max()
                .unwrap_or(0),
            damaged: script
                .damaged
                .iter()
                .filter(|(at, _)| at.machine == row.machine)
                .map(|(at, _)| at.seq)
                .collect(),
        })
    }

    async fn begin_commit(
        &self,
        step: StepId,
        attempt: i64,
        seq: u64,
        base: Option<u64>,
    ) -> Result<CommitBegun, Status> {
        {
            let mut script = self.script();
            script.begin_calls += 1;
            let machine = script.steps[&step].machine;
            if script.damaged.iter().any(|(at, _)| at.machine == machine && Some(at.seq) == base) {
                return Ok(CommitBegun::BaseDamaged);
            }
            let row = script.steps.get_mut(&step).unwrap();
            if row.attempt != attempt || !row.running || row.committing.is_some_and(|other| other > seq) {
                return Err(stale(attempt));
            }
            if row.cancelled {
                return Err(user_error("cancelled", "the job is being cancelled")
                    .into_status(Code::FailedPrecondition));
            }
            row.committing = Some(seq);
            if script.begin_failures > 0 {
                script.begin_failures -= 1;
                return Err(away());
            }
        }
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.reached.add_permits(1);
            hold.released.acquire().await.unwrap().forget();
        }
        Ok(CommitBegun::Lease(self.script().commit_lease.unwrap_or(Duration::from_secs(600))))
    }

    async fn record_point(&self, point: &Point) -> Result<(), Status> {
        let mut script = self.script();
        script.record_calls += 1;
        if script.record_failures > 0 {
            script.record_failures -= 1;
            return Err(away());
        }
        script.points.insert((MachineId(point.machine), point.seq), point.clone());
        if let Some(row) = script.steps.get_mut(&StepId(point.step_id))
            && row.attempt == point.attempt
        {
            row.running = false;
        }
        Ok(())
    }

    async fn find_point(&self, spec: &str) -> Result<CataloguedPoint, Status> {
        let script = self.script();
        let found = script
            .points
            .iter()
            .rev()
            .find(|(_, point)| spec == "web1@latest" || point.id.to_string() == spec);
        let ((machine, seq), point) = found.ok_or_else(|| {
            user_error("point_not_found", format!("no point {spec}")).into_status(Code::NotFound)
        })?;
        let location = PointLocation { machine: *machine, seq: *seq };
        Ok(CataloguedPoint { location, hash: point.hash, decisions: script.decisions(location) })
    }

    async fn record_restore(&self, operator: &str, point: PointId, disk: &str) -> Result<(), Status> {
        self.script().restores.push((operator.to_owned(), point, disk.to_owned()));
        Ok(())
    }

    async fn record_healing(&self, step: StepId, damaged: PointLocation) -> Result<(), Status> {
        self.script().healing.push((step, damaged));
        Ok(())
    }

    async fn is_live(&self, step: StepId, attempt: i64) -> Result<bool, Status> {
        Ok(self.script().steps.get(&step).is_some_and(|row| row.running && row.attempt == attempt))
    }

    async fn unsettled_commits(&self) -> Result<Vec<UnsettledCommit>, Status> {
        Ok(self.script().unsettled.clone())
    }

    async fn commit_aborted(&self, step: StepId, attempt: i64, _seq: u64) -> Result<(), Status> {
        let mut script = self.script();
        script.aborted.push((step, attempt));
        script.unsettled.retain(|commit| (commit.step, commit.attempt) != (step, attempt));
        Ok(())
    }

    async fn known_points(&self, machine: MachineId) -> Result<BTreeMap<u64, u32>, Status> {
        let script = self.script();
        let of = script.points.keys().filter(|(of, _)| *of == machine);
        Ok(of.map(|(_, seq)| (*seq, script.decisions(PointLocation { machine, seq: *seq }))).collect())
    }

    async fn kept_points(&self, machine: MachineId) -> Result<Vec<KeptPoint>, Status> {
        let script = self.script();
        let found_damaged =
            |seq| script.damaged.iter().filter(move |(at, _)| (at.machine, at.seq) == (machine, seq));
        let of = script.points.iter().filter(|((of, _), _)| *of == machine);
        let kept = of.map(|((_, seq), point)| KeptPoint {
            id: PointId(point.id),
            machine_name: point.machine_name.clone(),
            seq: *seq,
            hash: point.hash,
            decisions: script.decisions(PointLocation { machine, seq: *seq }),
            is_damaged: found_damaged(*seq).count() > 0,
            damages: u32::try_from(found_damaged(*seq).count()).unwrap(),
        });
        Ok(kept.collect())
    }

    async fn catalogued_points(&self) -> Result<BTreeMap<Uuid, Vec<u64>>, Status> {
        let mut all: BTreeMap<Uuid, Vec<u64>> = BTreeMap::new();
        for (machine, seq) in self.script().points.keys() {
            all.entry(machine.0).or_default().push(*seq);
        }
        Ok(all)
    }

    async fn record_standing(&self, decided: &Decided) -> Result<(), Status> {
        let at = (decided.machine, decided.seq);
        self.script().standings.insert(at, Standing::after(&decided.events));
        Ok(())
    }

    async fn unenforced_locks(&self) -> Result<Vec<PointLocation>, Status> {
        Ok(Vec::new())
    }

    async fn record_retention(&self, _point: PointLocation, _retention: Retention) -> Result<(), Status> {
        Ok(())
    }

    async fn add_machine(&self, _machine: &FoundMachine, _actor: &str) -> Result<bool, Status> {
        Ok(false)
    }

    async fn record_verified(&self, verified: &Verified) -> Result<(), Status> {
        self.script().verified.push(verified.clone());
        Ok(())
    }

    async fn mark_damaged(&self, point: PointLocation, reason: &str) -> Result<bool, Status> {
        let hold = self.hold_mark.lock().unwrap().take_if(|(seq, _)| *seq == point.seq);
        if let Some((_, hold)) = hold {
            hold.reached.add_permits(1);
            hold.released.acquire().await.unwrap().forget();
        }
        let mut script = self.script();
        if script.mark_failures > 0 {
            script.mark_failures -= 1;
            return Err(away());
        }
        let is_there = script.points.contains_key(&(point.machine, point.seq));
        if is_there {
            script.damaged.push((point, reason.to_owned()));
        }
        Ok(is_there)
    }
}
