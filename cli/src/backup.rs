use uuid::Uuid;

use holdfast_proto::v1::StartBackupRequest;

use crate::args::BackupArgs;
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::follow::follow;
use crate::job;
use crate::output::Output;

pub(crate) async fn start(client: Client, output: Output, args: BackupArgs) -> Result<(), CliError> {
    let request = StartBackupRequest {
        machine: args.machine,
        disk_names: args.disks,
        request_id: Uuid::new_v4().to_string(),
    };
    let started = again(|| {
        let (mut client, request) = (client.jobs(), request.clone());
        async move { client.start_backup(timed(request)).await }
    })
    .await?;
    if !args.wait {
        return job::print(output, started);
    }
    eprintln!("job {}", started.id);
    let ended = follow(&client, output, &started.id, |_| Ok(())).await?;
    job::finish(output, ended)
}
