use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::Status;
use uuid::Uuid;

use holdfast_proto::ids::{AgentId, MachineId, PointId, SnapshotId, StepId};
use holdfast_vault_engine::{Consistency, DiskSpec, Event, Point, Retention};

/// The agent behind a request: put into its extensions by the agents' listener, from the client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentIdentity(pub AgentId);

/// The operator behind a request: put into its extensions by the operators' listener, from the API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorIdentity {
    pub name: String,
    pub role: Role,
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look, but neither change anything nor read the data of machines.
    Viewer,
}

/// What a transfer is for.
#[derive(Clone, Debug)]
pub struct TransferGrant {
    pub machine: MachineId,
    pub machine_name: String,
    pub consistency: Consistency,
    pub taken_at: DateTime<Utc>,
    pub snapshot_id: SnapshotId,
    /// All disks of the snapshot.
    pub disks: Vec<DiskSpec>,
    /// The largest sequence number of a point of the machine that the catalogue knows; 0 if none.
    pub last_seq: u64,
    /// Sequence numbers of its points that are known to be damaged.
    pub damaged: Vec<u64>,
}

/// Where a point is in the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointLocation {
    pub machine: MachineId,
    pub seq: u64,
}

/// A point as the catalogue remembers it: what the vault has in its place is held against that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CataloguedPoint {
    pub location: PointLocation,
    pub hash: [u8; 32],
    /// How many decisions about it are known.
    pub decisions: u32,
}

/// A point that the catalogue has and that is not purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPoint {
    pub id: PointId,
    pub machine_name: String,
    pub seq: u64,
    pub hash: [u8; 32],
    /// How many decisions about it are known.
    pub decisions: u32,
    pub is_damaged: bool,
    /// How often it was found damaged, ever.
    pub damages: u32,
}

/// A commit that began and whose outcome is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsettledCommit {
    pub machine: MachineId,
    pub step: StepId,
    pub attempt: i64,
    pub seq: u64,
}

/// What the control plane says to the beginning of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitBegun {
    /// For how long nobody else settles the commit, unless the attempt is ended before.
    Lease(Duration),
    /// The point that it builds upon is called damaged: nothing begins.
    BaseDamaged,
}

/// All that was decided about a point, for the catalogue.
#[derive(Clone, Debug)]
pub struct Decided {
    pub machine: MachineId,
    pub seq: u64,
    /// In their order.
    pub events: Vec<Event>,
}

/// A machine as its newest point knows it.
#[derive(Clone, Debug)]
pub struct FoundMachine {
    pub id: MachineId,
    pub name: String,
    pub disks: Vec<DiskSpec>,
}

/// What a verification found out about a machine's points.
#[derive(Clone, Debug)]
pub struct Verified {
    pub machine: MachineId,
    /// Sequence numbers, and what is wrong.
    pub damaged: Vec<(u64, String)>,
    /// Every byte that these need was read. With how often each had been found damaged when that began: what was found since
    /// may have happened since.
    pub sound: Vec<(u64, u32)>,
    pub actor: String,
}

/// What the gateway has to know from, and tell, the control plane. The statuses of its errors go to the caller as they are.
#[tonic::async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Checks that this agent may send data for this attempt now.
    async fn authorise_transfer(
        &self,
        agent: AgentId,
        step: StepId,
        attempt: i64,
    ) -> Result<TransferGrant, Status>;

    /// Marks the point of no return: FAILED_PRECONDITION if the attempt is not current or its job is being cancelled. `base` is the
    /// sequence number of the point that is built upon.
    async fn begin_commit(
        &self,
        step: StepId,
        attempt: i64,
        seq: u64,
        base: Option<u64>,
    ) -> Result<CommitBegun, Status>;

    /// Indexes a point and ends its step, in one transaction; as damaged, if the point that it is built upon was found damaged since its
    /// commit began. Idempotent.
    async fn record_point(&self, point: &Point) -> Result<(), Status>;

    /// Finds a point by its id, or as `MACHINE@latest`.
    async fn find_point(&self, spec: &str) -> Result<CataloguedPoint, Status>;

    /// Audits a restore before its first byte.
    async fn record_restore(&self, operator: &str, point: PointId, disk: &str) -> Result<(), Status>;

    /// The backup of this step is a full one, since the machine's newest point is damaged. Idempotent.
    async fn record_healing(&self, step: StepId, damaged: PointLocation) -> Result<(), Status>;

    /// Whether this is the current attempt of its step.
    async fn is_live(&self, step: StepId, attempt: i64) -> Result<bool, Status>;

    /// Commits that began so long ago that their gateway may be dead.
    async fn unsettled_commits(&self) -> Result<Vec<UnsettledCommit>, Status>;

    /// The vault says that this commit of the attempt made no point and never will.
    async fn commit_aborted(&self, step: StepId, attempt: i64, seq: u64) -> Result<(), Status>;

    /// The machine's points in the catalogue, those that are purged as well: their sequence numbers, and how many decisions
    /// about each the catalogue knows.
    async fn known_points(&self, machine: MachineId) -> Result<BTreeMap<u64, u32>, Status>;

    /// The machine's points in the catalogue that are not purged.
    async fn kept_points(&self, machine: MachineId) -> Result<Vec<KeptPoint>, Status>;

    /// The sequence numbers of all points in the catalogue that are not purged, by machine.
    async fn catalogued_points(&self) -> Result<BTreeMap<Uuid, Vec<u64>>, Status>;

    /// What was decided about a point in the vault. Idempotent; what is older than what the catalogue knows changes nothing.
    async fn record_standing(&self, decided: &Decided) -> Result<(), Status>;

    /// Points under lock that the storage does not enforce as the lock calls for, as far as the catalogue knows.
    async fn unenforced_locks(&self) -> Result<Vec<PointLocation>, Status>;

    /// What the storage retains of everything that a point needs.
    async fn record_retention(&self, point: PointLocation, retention: Retention) -> Result<(), Status>;

    /// Adds a machine that the catalogue does not have, without an agent; under another name if its own is taken. Answers whether
    /// it was added.
    async fn add_machine(&self, machine: &FoundMachine, actor: &str) -> Result<bool, Status>;

    /// What a verification found out about a machine's points.
    async fn record_verified(&self, verified: &Verified) -> Result<(), Status>;

    /// Something that the point needs is damaged or missing. Answers whether the catalogue has the point.
    ///
    /// # Errors
    /// `NOT_FOUND` if it does not even have the machine.
    async fn mark_damaged(&self, point: PointLocation, reason: &str) -> Result<bool, Status>;
}
