use holdfast_proto::v1::{
    self, GetMachineRequest, LabelMachineRequest, LiftQuarantineRequest, ListMachinesRequest,
    RemoveMachineRequest,
};

use crate::args::LabelChange;
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, size, table};
use crate::view::{Machine, or_dash};

pub(crate) async fn list(client: Client, output: Output, show_removed: bool) -> Result<(), CliError> {
    let mut machines: Vec<Machine> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListMachinesRequest { page_size: 1000, page_token, show_removed };
        let page = again(|| {
            let (mut client, request) = (client.machines(), request.clone());
            async move { client.list_machines(timed(request)).await }
        })
        .await?;
        machines.extend(page.machines.into_iter().map(Machine::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.print(&machines, || {
        table(
            ["NAME", "STATE", "POLICY", "DISKS", "SIZE", "LAST POINT", "CONDITIONS", "ID"],
            machines.iter().map(|machine| {
                [
                    machine.name.clone(),
                    machine.state.to_owned(),
                    or_dash(machine.policy.as_deref()),
                    machine.disks.len().to_string(),
                    size(machine.disks.iter().map(|disk| disk.size_bytes).sum()),
                    or_dash(machine.last_point_at.as_deref()),
                    or_dash(Some(
                        &machine
                            .conditions
                            .iter()
                            .map(|condition| condition.code.as_str())
                            .collect::<Vec<_>>()
                            .join(" "),
                    )),
                    machine.id.clone(),
                ]
            }),
        )
    })
}

pub(crate) async fn show(client: Client, output: Output, machine: String) -> Result<(), CliError> {
    let machine = Machine::from(get(&client, machine).await?);
    output.print(&machine, || describe(&machine))
}

pub(crate) async fn remove(client: Client, output: Output, machine: String) -> Result<(), CliError> {
    let machine = id_of(&client, machine).await?;
    let answer = again(|| {
        let (mut client, machine) = (client.machines(), machine.clone());
        async move { client.remove_machine(timed(RemoveMachineRequest { machine })).await }
    })
    .await?;
    let machine = Machine::from(answer);
    output.print(&machine, || describe(&machine))
}

pub(crate) async fn label(
    client: Client,
    output: Output,
    machine: String,
    changes: Vec<LabelChange>,
) -> Result<(), CliError> {
    let machine = id_of(&client, machine).await?;
    let mut request = LabelMachineRequest { machine, ..LabelMachineRequest::default() };
    for change in changes {
        match change {
            LabelChange::Set(key, value) => drop(request.set.insert(key, value)),
            LabelChange::Remove(key) => request.remove.push(key),
        }
    }
    let answer = again(|| {
        let (mut client, request) = (client.machines(), request.clone());
        async move { client.label_machine(timed(request)).await }
    })
    .await?;
    let machine = Machine::from(answer);
    output.print(&machine, || describe(&machine))
}

pub(crate) async fn lift_quarantine(client: Client, output: Output, machine: String) -> Result<(), CliError> {
    let machine = id_of(&client, machine).await?;
    let answer = again(|| {
        let (mut client, machine) = (client.machines(), machine.clone());
        async move { client.lift_quarantine(timed(LiftQuarantineRequest { machine })).await }
    })
    .await?;
    let machine = Machine::from(answer);
    output.print(&machine, || describe(&machine))
}

/// What changes a machine goes by this: when the call is repeated since its answer was lost, the name may be another machine's already.
async fn id_of(client: &Client, machine: String) -> Result<String, CliError> {
    Ok(get(client, machine).await?.id)
}

async fn get(client: &Client, machine: String) -> Result<v1::Machine, CliError> {
    again(|| {
        let (mut client, machine) = (client.machines(), machine.clone());
        async move { client.get_machine(timed(GetMachineRequest { machine })).await }
    })
    .await
}

fn describe(machine: &Machine) -> String {
    let labels: Vec<String> = machine.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = format!(
        "name       {}\nid         {}\nstate      {}\nlabels     {}\nos         {}\nagent      {}\nenrolled   {}\nlast seen  {}\n",
        machine.name,
        machine.id,
        machine.state,
        or_dash(Some(&labels.join(" "))),
        or_dash(Some(&machine.os)),
        or_dash(Some(&machine.agent_version)),
        or_dash(machine.enrolled_at.as_deref()),
        or_dash(machine.last_seen_at.as_deref()),
    );
    text.push_str(&format!(
        "policy     {}\nnext slot  {}\nlast point {}\nverified   {}\n",
        or_dash(machine.policy.as_deref()),
        or_dash(machine.next_slot.as_deref()),
        or_dash(machine.last_point_at.as_deref()),
        or_dash(machine.verified_at.as_deref()),
    ));
    if let Some(removed_at) = &machine.removed_at {
        text.push_str(&format!("removed    {removed_at}\n"));
    }
    for condition in &machine.conditions {
        text.push_str(&format!(
            "\n! {} ({})\n  next: {}\n",
            condition.message, condition.code, condition.action
        ));
    }
    text.push('\n');
    text.push_str(&table(
        ["DISK", "SIZE"],
        machine.disks.iter().map(|disk| [disk.name.clone(), size(disk.size_bytes)]),
    ));
    text
}
