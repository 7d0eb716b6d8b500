use std::collections::BTreeMap;

use serde::Serialize;

use holdfast_proto::v1::GetStatusRequest;

use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size};
use crate::view::{Error, or_dash};

#[derive(Debug, Serialize)]
struct Status {
    version: String,
    vault: String,
    machines: Machines,
    jobs: Jobs,
    policies: i64,
    /// Machines by what needs a look.
    conditions: BTreeMap<String, i64>,
    points: i64,
    stored_bytes: u64,
    vault_error: Option<Error>,
    vault_free_bytes: Option<u64>,
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
        policies: answer.policies,
        conditions: answer.conditions.into_iter().collect(),
        points: answer.points,
        stored_bytes: answer.stored_bytes,
        vault_error: answer.vault_error.map(Error::from),
        vault_free_bytes: answer.vault_free_bytes,
    };
    output.print(&status, || {
        let (machines, jobs) = (&status.machines, &status.jobs);
        let conditions: Vec<String> =
            status.conditions.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let vault_error = status.vault_error.as_ref().map_or_else(String::new, |error| {
            format!("\n\n! {} ({})\n  next: {}", error.message, error.code, error.action)
        });
        let free = status.vault_free_bytes.map_or_else(String::new, |free| format!("; {} free", size(free)));
        format!(
            "controller  {}\nvault       {}\nmachines    {} online, {} offline, {} quarantined\n\
             jobs        {} queued, {} running, {} failed in 24 h\n\
             policies    {}\nconditions  {}\npoints      {} ({}{free}){vault_error}",
            status.version,
            status.vault,
            machines.online,
            machines.offline,
            machines.quarantined,
            jobs.queued,
            jobs.running,
            jobs.failed_in_24h,
            status.policies,
            or_dash(Some(&conditions.join(", "))),
            status.points,
            size(status.stored_bytes),
        )
    })
}
