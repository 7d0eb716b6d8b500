use holdfast_proto::v1::{GetPointRequest, ListPointsRequest};

use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size, table};
use crate::view::{Point, or_dash};

pub(crate) async fn list(client: Client, output: Output, machine: Option<String>) -> Result<(), CliError> {
    let mut points: Vec<Point> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            ListPointsRequest { machine: machine.clone().unwrap_or_default(), page_size: 1000, page_token };
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
            ["ID", "MACHINE", "CREATED", "CONSISTENCY", "STATE", "DISKS", "SIZE", "CHANGED", "STORED"],
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
    output.print(&point, || {
        let header = format!(
            "id           {}\nmachine      {}\ncreated      {}\nconsistency  {}\nstate        {}\n\n",
            point.id,
            point.machine,
            or_dash(point.created_at.as_deref()),
            point.consistency,
            point.state,
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
    })
}
