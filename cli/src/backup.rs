use uuid::Uuid;

use holdfast_proto::v1::{GetMachineRequest, MachineState, StartBackupRequest};

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
    tell_if_away(&client, &started.machine_name).await;
    if !args.wait {
        return job::print(output, started);
    }
    eprintln!("job {}", started.id);
    let ended = follow(&client, output, &started.id, |_| Ok(())).await?;
    job::finish(output, ended)
}

/// The job of a machine that is away waits, which would look as if nothing happened.
async fn tell_if_away(client: &Client, machine: &str) {
    let request = GetMachineRequest { machine: machine.to_owned() };
    let answer = client.machines().get_machine(timed(request)).await;
    if answer.is_ok_and(|machine| machine.get_ref().state() == MachineState::Offline) {
        eprintln!("the agent of {machine} is not connected: the job waits for it");
    }
}
