use serde::Serialize;

use holdfast_proto::v1::GetStatusRequest;

use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size};

#[derive(Debug, Serialize)]
struct Status {
    version: String,
    vault: String,
    machines: Machines,
    jobs: Jobs,
    points: i64,
    stored_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Machines {
    online: i64,
    offline: i64,
    quarantined: i64,
}

#[derive(Debug, Serialize)]
struct Jobs {
    queued: i64,
    running: i64,
    failed_in_24h: i64,
}

pub(crate) async fn show(client: Client, output: Output) -> Result<(), CliError> {
    let answer = again(|| {
        let mut status = client.status();
        async move { status.get_status(timed(GetStatusRequest {})).await }
    })
    .await?;
    let status = Status {
        version: answer.controller_version,
        vault: answer.vault_id,
        machines: Machines {
            online: answer.machines_online,
            offline: answer.machines_offline,
            quarantined: answer.machines_quarantined,
        },
        jobs: Jobs {
            queued: answer.jobs_queued,
            running: answer.jobs_running,
            failed_in_24h: answer.jobs_failed_recently,
        },
        points: answer.points,
        stored_bytes: answer.stored_bytes,
    };
    output.print(&status, || {
        let (machines, jobs) = (&status.machines, &status.jobs);
        format!(
            "controller  {}\nvault       {}\nmachines    {} online, {} offline, {} quarantined\n\
             jobs        {} queued, {} running, {} failed in 24 h\npoints      {} ({})",
            status.version,
            status.vault,
            machines.online,
            machines.offline,
            machines.quarantined,
            jobs.queued,
            jobs.running,
            jobs.failed_in_24h,
            status.points,
            size(status.stored_bytes),
        )
    })
}
