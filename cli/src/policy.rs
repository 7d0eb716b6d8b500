mod file;

use holdfast_proto::v1::{
    self, ApplyOutcome, ApplyPolicyRequest, DeletePolicyRequest, GetPolicyRequest, ListPoliciesRequest,
    PreviewPolicyRequest,
};
use serde::Serialize;

use crate::args::{ApplyArgs, Format};
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::output::{Output, table};
use crate::view::{or_dash, time};

use file::PolicyFile;

/// Names in one line of text; the rest is counted.
const NAMES_SHOWN: usize = 10;

#[derive(Debug, Serialize)]
struct Policy {
    id: String,
    revision: i64,
    etag: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    next_slot: Option<String>,
    spec: PolicyFile,
}

#[derive(Debug, Serialize)]
struct Applied {
    /// `created`, `updated` or `unchanged`; with a dry run what it would be.
    outcome: &'static str,
    dry_run: bool,
    policy: Policy,
    machines: Vec<String>,
    conflicts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Preview {
    slots: Vec<String>,
    machines: Vec<String>,
    conflicts: Vec<String>,
}

impl From<v1::Policy> for Policy {
    fn from(policy: v1::Policy) -> Self {
        Self {
            id: policy.id,
            revision: policy.revision,
            etag: policy.etag,
            created_at: time(policy.created_at),
            updated_at: time(policy.updated_at),
            next_slot: time(policy.next_slot),
            spec: PolicyFile::from_wire(policy.name, policy.spec.unwrap_or_default()),
        }
    }
}

/// Applies every policy of a file. Each is checked first, so that a mistake in the last one changes nothing.
pub(crate) async fn apply(client: Client, output: Output, args: ApplyArgs) -> Result<(), CliError> {
    let files = file::read(&args.file)?;
    if args.etag.is_some() && files.len() > 1 {
        return Err(CliError::BadPolicy {
            path: args.file,
            detail: "--etag is for one policy, and there are several".to_owned(),
        });
    }
    let mut applied = Vec::new();
    for dry_run in [true, false] {
        applied.clear();
        for file in files.clone() {
            let (name, spec) = file.into_wire();
            let request = ApplyPolicyRequest {
                name,
                spec: Some(spec),
                etag: args.etag.clone().unwrap_or_default(),
                validate_only: dry_run,
            };
            applied.push(send(&client, request).await?);
        }
        if args.dry_run {
            break;
        }
    }
    output.print(&applied, || applied.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

async fn send(client: &Client, request: ApplyPolicyRequest) -> Result<Applied, CliError> {
    let dry_run = request.validate_only;
    let answer = again(|| {
        let (mut client, request) = (client.policies(), request.clone());
        async move { client.apply_policy(timed(request)).await }
    })
    .await?;
    let outcome = match answer.outcome() {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Updated => "updated",
        ApplyOutcome::Unchanged => "unchanged",
        ApplyOutcome::Unspecified => "unknown",
    };
    Ok(Applied {
        outcome,
        dry_run,
        policy: answer.policy.unwrap_or_default().into(),
        machines: answer.machines,
        conflicts: answer.conflicts,
    })
}

pub(crate) async fn list(client: Client, output: Output) -> Result<(), CliError> {
    let (mut policies, mut unreadable): (Vec<Policy>, Vec<String>) = (Vec::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let page =
            again(|| {
                let (mut client, page_token) = (client.policies(), page_token.clone());
                async move {
                    client.list_policies(timed(ListPoliciesRequest { page_size: 1000, page_token })).await
                }
            })
            .await?;
        policies.extend(page.policies.into_iter().map(Policy::from));
        unreadable.extend(page.unreadable);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    for name in unreadable {
        eprintln!(
            "policy {name} cannot be read by this controller, so it protects nothing and no policy deletes any point: upgrade the \
             controller, or delete the policy"
        );
    }
    output.print(&policies, || {
        table(
            ["NAME", "SCHEDULE", "MACHINES", "REVISION", "NEXT SLOT"],
            policies.iter().map(|policy| {
                [
                    policy.spec.name.clone(),
                    policy.spec.schedule.short(),
                    target(&policy.spec),
                    policy.revision.to_string(),
                    or_dash(policy.next_slot.as_deref()),
                ]
            }),
        )
    })
}

/// As YAML, it is what `apply` takes.
pub(crate) async fn show(client: Client, output: Output, name: String) -> Result<(), CliError> {
    let answer = again(|| {
        let (mut client, name) = (client.policies(), name.clone());
        async move { client.get_policy(timed(GetPolicyRequest { name })).await }
    })
    .await?;
    let policy = Policy::from(answer);
    if output.format == Format::Yaml {
        return output.print(&policy.spec, String::new);
    }
    output.print(&policy, || {
        let retention = &policy.spec.retention;
        format!(
            "name       {}\nschedule   {}\nmachines   {}\nretention  last {}, daily {}, weekly {}, monthly {}, yearly {}\n\
             complete   within {}\nrevision   {}\nupdated    {}\nnext slot  {}\netag       {}",
            policy.spec.name,
            policy.spec.schedule.short(),
            target(&policy.spec),
            retention.last,
            retention.daily,
            retention.weekly,
            retention.monthly,
            retention.yearly,
            policy.spec.complete_within,
            policy.revision,
            or_dash(policy.updated_at.as_deref()),
            or_dash(policy.next_slot.as_deref()),
            policy.etag,
        )
    })
}

pub(crate) async fn preview(
    client: Client,
    output: Output,
    name: String,
    count: i32,
) -> Result<(), CliError> {
    let answer = again(|| {
        let (mut client, name) = (client.policies(), name.clone());
        async move { client.preview_policy(timed(PreviewPolicyRequest { name, slots: count })).await }
    })
    .await?;
    let preview = Preview {
        slots: answer.slots.into_iter().filter_map(|slot| time(Some(slot))).collect(),
        machines: answer.machines,
        conflicts: answer.conflicts,
    };
    output.print(&preview, || {
        format!("{}\n{}", preview.slots.join("\n"), reach(&preview.machines, &preview.conflicts))
    })
}

pub(crate) async fn delete(
    client: Client,
    output: Output,
    name: String,
    etag: Option<String>,
) -> Result<(), CliError> {
    let request = DeletePolicyRequest { name: name.clone(), etag: etag.unwrap_or_default() };
    // Not repeated: a second call would tell that there is no such policy.
    client.policies().delete_policy(timed(request)).await?;
    output
        .print(&serde_json::json!({ "deleted": name }), || format!("deleted policy {name}; its points stay"))
}

fn describe(applied: &Applied) -> String {
    let would = if applied.dry_run && applied.outcome != "unchanged" { "would be " } else { "" };
    format!(
        "policy {} {would}{} (revision {}), next slot {}\n{}",
        applied.policy.spec.name,
        applied.outcome,
        applied.policy.revision,
        or_dash(applied.policy.next_slot.as_deref()),
        reach(&applied.machines, &applied.conflicts)
    )
}

fn reach(machines: &[String], conflicts: &[String]) -> String {
    let mut text = format!("protects {}", names(machines));
    if !conflicts.is_empty() {
        text.push_str(&format!("\nin conflict with another policy, so not protected: {}", names(conflicts)));
    }
    text
}

fn names(all: &[String]) -> String {
    match all.len() {
        0 => "no machine".to_owned(),
        count if count > NAMES_SHOWN => {
            format!("{} and {} more", all[..NAMES_SHOWN].join(", "), count - NAMES_SHOWN)
        }
        _ => all.join(", "),
    }
}

fn target(file: &PolicyFile) -> String {
    if file.selector.is_empty() {
        return names(&file.machines);
    }
    file.selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}
