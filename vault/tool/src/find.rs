//! Finding the point and the disk that the operator means.

use holdfast_vault_engine::{Point, PointDisk, PointStatus, Vault};
use uuid::Uuid;

use crate::error::ToolError;

/// The point with this id, or the newest one of MACHINE in `MACHINE@latest`.
pub(crate) async fn point(vault: &Vault, spec: &str) -> Result<Point, ToolError> {
    match spec.rsplit_once('@') {
        Some((machine, "latest")) => latest(vault, machine).await,
        Some(_) => Err(ToolError::PointSyntax(spec.to_owned())),
        None => match Uuid::parse_str(spec) {
            Ok(id) => by_id(vault, id).await,
            Err(_) => Err(ToolError::PointSyntax(spec.to_owned())),
        },
    }
}

/// The disk with this name, or the only one.
pub(crate) fn disk<'p>(point: &'p Point, wanted: Option<&str>) -> Result<&'p PointDisk, ToolError> {
    let known = || point.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, point.disks.as_slice()) {
        (Some(wanted), disks) => disks
            .iter()
            .find(|disk| disk.name == wanted)
            .ok_or_else(|| ToolError::NoDisk { wanted: wanted.to_owned(), known: known() }),
        (None, [only]) => Ok(only),
        (None, _) => Err(ToolError::WhichDisk { known: known() }),
    }
}

async fn by_id(vault: &Vault, id: Uuid) -> Result<Point, ToolError> {
    for machine in vault.machines().await.map_err(ToolError::List)? {
        for status in vault.points(machine).await.map_err(ToolError::List)? {
            if let PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) = status
                && point.id == id
            {
                return Ok(point);
            }
        }
    }
    Err(ToolError::NoPoint(id.to_string()))
}

/// The machine with this id, or the only one with this name.
pub(crate) async fn machine(vault: &Vault, wanted: &str) -> Result<Uuid, ToolError> {
    Ok(machine_and_points(vault, wanted).await?.0)
}

async fn machine_and_points(vault: &Vault, wanted: &str) -> Result<(Uuid, Vec<PointStatus>), ToolError> {
    let mut found = Vec::new();
    let by_id = Uuid::parse_str(wanted).ok();
    for machine in vault.machines().await.map_err(ToolError::List)? {
        if by_id.is_some_and(|id| id != machine) {
            continue;
        }
        let points = vault.points(machine).await.map_err(ToolError::List)?;
        let named = points
            .iter()
            .rev()
            .find_map(|status| match status {
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                    Some(point.machine_name == wanted)
                }
                PointStatus::Damaged { .. } => None,
            })
            .unwrap_or(false);
        if by_id.is_some() || named {
            found.push((machine, points));
        }
    }
    let count = found.len();
    match (found.pop(), count) {
        (Some(found), 1) => Ok(found),
        (None, _) => Err(ToolError::NoMachine(wanted.to_owned())),
        (Some(_), count) => Err(ToolError::ManyMachines { name: wanted.to_owned(), count }),
    }
}

async fn latest(vault: &Vault, wanted: &str) -> Result<Point, ToolError> {
    let (_, mut points) = machine_and_points(vault, wanted).await?;
    points.retain(|status| !matches!(status, PointStatus::SoftDeleted(..)));
    // An older point instead of the newest would be a surprise nobody notices.
    match points.pop() {
        Some(PointStatus::Ok(point)) => Ok(point),
        Some(PointStatus::Damaged { seq, error }) => {
            Err(ToolError::LatestDamaged { machine: wanted.to_owned(), seq, source: error })
        }
        Some(PointStatus::SoftDeleted(..)) | None => Err(ToolError::NoPoints(wanted.to_owned())),
    }
}
