use chrono::Utc;
use uuid::Uuid;

use holdfast_proto::v1::{
    DeletePointRequest, GetPointRequest, ListPointsRequest, LockMode, LockPointRequest, UndeletePointRequest,
    UnlockPointRequest,
};

use crate::args::{LockArgs, LockModeArg};
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size, table};
use crate::view::{Point, PointLock, or_dash};

pub(crate) async fn list(
    client: Client,
    output: Output,
    machine: Option<String>,
    show_deleted: bool,
) -> Result<(), CliError> {
    let mut points: Vec<Point> = Vec::new();
    let mut page_token = String::new();
    loop {
        let machine = machine.clone().unwrap_or_default();
        let request = ListPointsRequest { machine, page_size: 1000, page_token, show_deleted };
        let page = again(|| {
            let (mut client, request) = (client.points(), request.clone());
            async move { client.list_points(timed(request)).await }
        })
        .await?;
        points.extend(page.points.into_iter().map(Point::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.print(&points, || {
        table(
            [
                "ID",
                "MACHINE",
                "CREATED",
                "CONSISTENCY",
                "STATE",
                "DISKS",
                "SIZE",
                "CHANGED",
                "STORED",
                "LOCKED UNTIL",
            ],
            points.iter().map(|point| {
                let sum = |read: fn(&crate::view::PointDisk) -> u64| size(point.disks.iter().map(read).sum());
                [
                    point.id.clone(),
                    point.machine.clone(),
                    or_dash(point.created_at.as_deref()),
                    point.consistency.to_owned(),
                    point.state.to_owned(),
                    point.disks.len().to_string(),
                    sum(|disk| disk.size_bytes),
                    sum(|disk| disk.changed_bytes),
                    sum(|disk| disk.stored_bytes),
                    or_dash(point.lock.as_ref().and_then(|lock| lock.until.as_deref())),
                ]
            }),
        )
    })
}

pub(crate) async fn show(client: Client, output: Output, point: String) -> Result<(), CliError> {
    let answer = again(|| {
        let (mut client, point) = (client.points(), point.clone());
        async move { client.get_point(timed(GetPointRequest { point })).await }
    })
    .await?;
    let point = Point::from(answer);
    output.print(&point, || describe(&point))
}

pub(crate) async fn delete(client: Client, output: Output, points: Vec<String>) -> Result<(), CliError> {
    let mut changed = Vec::new();
    for point in points {
        let request = DeletePointRequest { point, request_id: Uuid::new_v4().to_string() };
        let answer = again(|| {
            let (mut client, request) = (client.points(), request.clone());
            async move { client.delete_point(timed(request)).await }
        });
        match answer.await {
            Ok(point) => changed.push(Point::from(point)),
            Err(error) => return Err(after(output, &changed, error)),
        }
    }
    tell(output, &changed)
}

pub(crate) async fn undelete(client: Client, output: Output, points: Vec<String>) -> Result<(), CliError> {
    let mut changed = Vec::new();
    for point in points {
        let request = UndeletePointRequest { point, request_id: Uuid::new_v4().to_string() };
        let answer = again(|| {
            let (mut client, request) = (client.points(), request.clone());
            async move { client.undelete_point(timed(request)).await }
        });
        match answer.await {
            Ok(point) => changed.push(Point::from(point)),
            Err(error) => return Err(after(output, &changed, error)),
        }
    }
    tell(output, &changed)
}

pub(crate) async fn lock(client: Client, output: Output, args: LockArgs) -> Result<(), CliError> {
    let until = args.end.instant(Utc::now());
    let mode = match args.mode {
        LockModeArg::Governance => LockMode::Governance,
        LockModeArg::Compliance => LockMode::Compliance,
    };
    let request = LockPointRequest {
        point: args.point,
        mode: mode.into(),
        until: Some(prost_types::Timestamp { seconds: until.timestamp(), nanos: 0 }),
        request_id: Uuid::new_v4().to_string(),
    };
    let answer = again(|| {
        let (mut client, request) = (client.points(), request.clone());
        async move { client.lock_point(timed(request)).await }
    });
    tell(output, &[Point::from(answer.await?)])
}

pub(crate) async fn unlock(client: Client, output: Output, point: String) -> Result<(), CliError> {
    let request = UnlockPointRequest { point, request_id: Uuid::new_v4().to_string() };
    let answer = again(|| {
        let (mut client, request) = (client.points(), request.clone());
        async move { client.unlock_point(timed(request)).await }
    });
    tell(output, &[Point::from(answer.await?)])
}

/// What was done before one of several points failed is told all the same.
fn after(output: Output, changed: &[Point], error: CliError) -> CliError {
    let told = if changed.is_empty() { Ok(()) } else { tell(output, changed) };
    told.err().unwrap_or(error)
}

/// Where points stand now, a line for each.
fn tell(output: Output, points: &[Point]) -> Result<(), CliError> {
    output.print(&points, || {
        let lines = points.iter().map(|point| {
            let undelete =
                point.purge_after.as_ref().map(|until| format!(", can be undeleted until {until}"));
            let lock = point
                .lock
                .as_ref()
                .map(|lock| format!(", {}, {}", describe_lock(lock), describe_retention(point)));
            format!(
                "{} of {}: {}{}{}",
                point.id,
                point.machine,
                point.state,
                undelete.unwrap_or_default(),
                lock.unwrap_or_default()
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn describe_lock(lock: &PointLock) -> String {
    format!("{} lock until {}", lock.mode, or_dash(lock.until.as_deref()))
}

/// What stands behind a lock.
fn describe_retention(point: &Point) -> String {
    point.retention.as_ref().map_or_else(
        || "not enforced by the storage".to_owned(),
        |retention| {
            format!(
                "enforced by the storage ({} until {})",
                retention.mode,
                or_dash(retention.until.as_deref())
            )
        },
    )
}

fn describe(point: &Point) -> String {
    let header = format!(
        "id           {}\nmachine      {}\ncreated      {}\nconsistency  {}\nstate        {}\ndeleted      {}\n\
         purge after  {}\nlock         {}\nretention    {}\n\n",
        point.id,
        point.machine,
        or_dash(point.created_at.as_deref()),
        point.consistency,
        point.state,
        or_dash(point.deleted_at.as_deref()),
        or_dash(point.purge_after.as_deref()),
        point.lock.as_ref().map_or("-".to_owned(), describe_lock),
        describe_retention(point),
    );
    let disks = table(
        ["DISK", "SIZE", "READ", "CHANGED", "SENT", "STORED"],
        point.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                size(disk.size_bytes),
                size(disk.read_bytes),
                size(disk.changed_bytes),
                size(disk.sent_bytes),
                size(disk.stored_bytes),
            ]
        }),
    );
    header + &disks
}
