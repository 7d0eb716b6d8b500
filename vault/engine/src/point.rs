use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use holdfast_vault_format::container::Kind;
use holdfast_vault_format::record::{self, Abort, Consistency, DeltaRef, Open, PointRef};

use crate::standing::{Deletion, PointState};
use crate::{Vault, VaultError, name, object};

const NOT_REMEMBERED: &str = "it is not the point that was made";

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub id: Uuid,
    pub machine: Uuid,
    pub machine_name: String,
    pub seq: u64,
    pub hash: [u8; 32],
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// The instant that it restores.
    pub taken_at: DateTime<Utc>,
    pub consistency: Consistency,
    pub snapshot_id: Uuid,
    pub step_id: Uuid,
    pub attempt: i64,
    pub previous: Option<PointRef>,
    pub disks: Vec<PointDisk>,
}

/// One disk of a point. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointDisk {
    pub name: String,
    pub size_bytes: u64,
    pub read_bytes: u64,
    pub changed_bytes: u64,
    pub sent_bytes: u64,
    pub stored_bytes: u64,
    /// Newest first.
    pub stack: Vec<DeltaRef>,
}

/// A point as it was found.
#[derive(Debug)]
pub enum PointStatus {
    Ok(Point),
    /// It was deleted and can be undeleted: until it is purged, it restores.
    SoftDeleted(Point, Deletion),
    Damaged {
        seq: u64,
        error: VaultError,
    },
}

/// What became of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Point(Point),
    Aborted { reason: String },
}

/// A backup that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBackup {
    pub machine: Uuid,
    pub seq: u64,
    pub step_id: Uuid,
    pub attempt: i64,
    pub snapshot_id: Uuid,
}

impl Point {
    pub(crate) fn from_record(record: record::Point) -> Self {
        let hash = record.hash();
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH);
        let disks = record.disks.into_iter().map(|disk| PointDisk {
            name: disk.name,
            size_bytes: disk.size_bytes,
            read_bytes: disk.read_bytes,
            changed_bytes: disk.changed_bytes,
            sent_bytes: disk.sent_bytes,
            stored_bytes: disk.stored_bytes,
            stack: disk.stack,
        });
        Self {
            id: record.id,
            machine: record.machine,
            machine_name: record.machine_name,
            seq: record.seq,
            hash,
            created_at: time(record.created_at),
            taken_at: time(record.taken_at),
            consistency: record.consistency,
            snapshot_id: record.snapshot,
            step_id: record.step,
            attempt: record.attempt,
            previous: record.previous,
            disks: disks.collect(),
        }
    }

    /// Names the block map of one disk of this point.
    #[must_use]
    pub fn map_id(&self, disk: &str) -> Option<[u8; 32]> {
        self.disk(disk)?;
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 block map");
        hasher.update(&self.hash).update(disk.as_bytes());
        Some(*hasher.finalize().as_bytes())
    }

    pub(crate) fn disk(&self, name: &str) -> Option<&PointDisk> {
        self.disks.iter().find(|disk| disk.name == name)
    }

    pub(crate) fn reference(&self) -> PointRef {
        PointRef { seq: self.seq, hash: self.hash }
    }
}

impl PointStatus {
    pub(crate) fn seq(&self) -> u64 {
        match self {
            Self::Ok(point) | Self::SoftDeleted(point, _) => point.seq,
            Self::Damaged { seq, .. } => *seq,
        }
    }
}

impl Vault {
    /// All points of a machine that are not purged, oldest first, each checked for its signature. One that is gone or was
    /// replaced, by the word of a later one, counts as damaged; so does one of which it cannot be told where it stands.
    pub async fn points(&self, machine: Uuid) -> Result<Vec<PointStatus>, VaultError> {
        let names = self.point_names(machine).await?;
        let mut points = Vec::new();
        let mut purged = HashSet::new();
        for seq in names.known() {
            let standing = self.standing_by(machine, seq, names.events.get(&seq)).await;
            if standing.as_ref().is_ok_and(|standing| standing.state == PointState::Purged) {
                purged.insert(seq);
            }
            let looked = match standing {
                Ok(standing) => self.look(machine, seq).await.map(|outcome| outcome.zip(Some(standing))),
                Err(error) => Err(error),
            };
            match looked {
                Ok(Some((Outcome::Point(point), standing))) => points.push(match standing.state {
                    PointState::SoftDeleted(deletion) => PointStatus::SoftDeleted(point, deletion),
                    PointState::Listed | PointState::Purged => PointStatus::Ok(point),
                }),
                // Only points are decided about.
                Ok(None) if names.events.contains_key(&seq) => {
                    let error = VaultError::Missing { object: name::point(machine, seq) };
                    points.push(PointStatus::Damaged { seq, error });
                }
                Ok(Some((Outcome::Aborted { .. }, _)) | None) => {}
                Err(error) if error.is_damage() => points.push(PointStatus::Damaged { seq, error }),
                Err(error) => return Err(error),
            }
        }
        check_chain(machine, &mut points);
        points.retain(|status| !purged.contains(&status.seq()));
        Ok(points)
    }

    /// Sequence numbers of a machine's points and aborts, ascending.
    pub async fn point_seqs(&self, machine: Uuid) -> Result<Vec<u64>, VaultError> {
        Ok(object::list(self.store(), &format!("points/{machine}"))
            .await?
            .iter()
            .filter_map(name::seq_of)
            .collect())
    }

    /// What became of a backup, for ever; `None` while it is open.
    pub async fn outcome(&self, machine: Uuid, seq: u64) -> Result<Option<Outcome>, VaultError> {
        let outcome = self.look(machine, seq).await?;
        if outcome.is_some() {
            // Whoever decided may have been killed before the name was durable.
            self.storage().make_durable(&name::point(machine, seq)).await?;
        }
        Ok(outcome)
    }

    /// The point that the caller remembers by its hash.
    ///
    /// # Errors
    /// Damage if it is gone, or another one is in its place: nothing in the vault tells that of the newest one.
    pub async fn remembered_point(
        &self,
        machine: Uuid,
        seq: u64,
        hash: &[u8; 32],
    ) -> Result<Point, VaultError> {
        let object = name::point(machine, seq);
        match self.outcome(machine, seq).await? {
            Some(Outcome::Point(point)) if point.hash == *hash => Ok(point),
            Some(Outcome::Point(_)) => Err(VaultError::mismatch(&object, NOT_REMEMBERED)),
            Some(Outcome::Aborted { .. }) | None => Err(VaultError::Missing { object }),
        }
    }

    /// What can be seen of a backup: to be read, not to be built on.
    pub(crate) async fn look(&self, machine: Uuid, seq: u64) -> Result<Option<Outcome>, VaultError> {
        let object = name::point(machine, seq);
        let (kind, body) = match self.read_any_record(&object).await {
            Err(VaultError::Missing { .. }) => {
                self.check_present().await?;
                return Ok(None);
            }
            other => other?,
        };
        let damaged = |source| VaultError::damaged(&object, source);
        let (found, outcome) = match kind {
            Kind::Point => {
                let point = record::verify(&body, &self.inner.signer.public_key()).map_err(damaged)?;
                ((point.machine, point.seq), Outcome::Point(Point::from_record(point)))
            }
            Kind::Abort => {
                let abort = Abort::decode(&body).map_err(damaged)?;
                ((abort.machine, abort.seq), Outcome::Aborted { reason: abort.reason })
            }
            _ => return Err(VaultError::mismatch(&object, "it is of another kind")),
        };
        if found == (machine, seq) {
            Ok(Some(outcome))
        } else {
            Err(VaultError::mismatch(&object, "it is another backup's"))
        }
    }

    /// Creates the object that decides about a backup, or answers what decided already. After an error nothing is known: ask
    /// again.
    pub(crate) async fn decide(
        &self,
        machine: Uuid,
        seq: u64,
        kind: Kind,
        body: &[u8],
    ) -> Result<Outcome, VaultError> {
        let object = name::point(machine, seq);
        self.create_record(&object, kind, body).await?;
        self.outcome(machine, seq).await?.ok_or(VaultError::Missing { object })
    }

    pub(crate) async fn read_open(&self, machine: Uuid, seq: u64) -> Result<Open, VaultError> {
        let object = name::open(machine, seq);
        let body = self.read_record(&object, Kind::Open).await?;
        let open = Open::decode(&body).map_err(|source| VaultError::damaged(&object, source))?;
        if (open.machine, open.seq) != (machine, seq) {
            return Err(VaultError::mismatch(&object, "it is another backup's"));
        }
        Ok(open)
    }

    pub(crate) async fn open_seqs(&self, machine: Uuid) -> Result<Vec<u64>, VaultError> {
        Ok(object::list(self.store(), &format!("open/{machine}"))
            .await?
            .iter()
            .filter_map(name::seq_of)
            .collect())
    }
}

/// Adds the points that others name as the one before them and that are not there.
fn check_chain(machine: Uuid, points: &mut Vec<PointStatus>) {
    let named: Vec<PointRef> = points
        .iter()
        .filter_map(|status| match status {
            PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => point.previous,
            PointStatus::Damaged { .. } => None,
        })
        .collect();
    for PointRef { seq, hash } in named {
        let object = name::point(machine, seq);
        match points.binary_search_by_key(&seq, PointStatus::seq) {
            Err(at) => {
                points.insert(at, PointStatus::Damaged { seq, error: VaultError::Missing { object } });
            }
            Ok(at) if matches!(&points[at], PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) if point.hash != hash) =>
            {
                let error =
                    VaultError::mismatch(&object, "it is not the point that a later one was built on");
                points[at] = PointStatus::Damaged { seq, error };
            }
            Ok(_) => {}
        }
    }
}
