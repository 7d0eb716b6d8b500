use holdfast_proto::v1::{self, CancelJobRequest, GetJobRequest, ListJobsRequest};

use crate::args::{Format, JobListArgs, JobStateArg};
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::follow::follow;
use crate::output::{self, Output, size, table};
use crate::view::{Job, or_dash};

pub(crate) async fn list(client: Client, output: Output, args: JobListArgs) -> Result<(), CliError> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut page_token = String::new();
    let limit = args.limit as usize;
    while jobs.len() < limit {
        let request = ListJobsRequest {
            machine: args.machine.clone().unwrap_or_default(),
            state: args.state.map_or(v1::JobState::Unspecified, wire_state).into(),
            page_size: i32::try_from((limit - jobs.len()).min(1000)).unwrap_or(1000),
            page_token,
        };
        let page = again(|| {
            let (mut client, request) = (client.jobs(), request.clone());
            async move { client.list_jobs(timed(request)).await }
        })
        .await?;
        jobs.extend(page.jobs.into_iter().map(Job::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.print(&jobs, || {
        table(
            ["ID", "KIND", "MACHINE", "STATE", "POLICY", "CREATED", "POINT", "ERROR"],
            jobs.iter().map(|job| {
                [
                    job.id.clone(),
                    job.kind.to_owned(),
                    job.machine.clone(),
                    job.state.to_owned(),
                    or_dash(job.policy.as_deref()),
                    or_dash(job.created_at.as_deref()),
                    or_dash(job.point.as_deref()),
                    or_dash(job.error.as_ref().map(|error| error.code.as_str())),
                ]
            }),
        )
    })
}

pub(crate) async fn show(client: Client, output: Output, job: String) -> Result<(), CliError> {
    let answer = again(|| {
        let (mut client, id) = (client.jobs(), job.clone());
        async move { client.get_job(timed(GetJobRequest { id })).await }
    })
    .await?;
    print(output, answer)
}

pub(crate) async fn wait(client: Client, output: Output, job: String) -> Result<(), CliError> {
    let ended = follow(&client, output, &job, |_| Ok(())).await?;
    finish(output, ended)
}

pub(crate) async fn watch(client: Client, output: Output, job: String) -> Result<(), CliError> {
    let mut is_first = true;
    follow(&client, output, &job, |job| match output.format {
        // One line per change, so that a program can read them as they come.
        Format::Json => {
            let line = serde_json::to_string(&Job::from(job.clone()))
                .map_err(|error| CliError::Encode { detail: error.to_string() })?;
            output::write(&line)
        }
        Format::Table | Format::Yaml => {
            // Documents of one stream; for people, an empty line.
            match (std::mem::take(&mut is_first), output.format) {
                (true, _) => {}
                (false, Format::Yaml) => output::write("---")?,
                (false, _) => output::write("")?,
            }
            print(output, job.clone())
        }
    })
    .await?;
    Ok(())
}

pub(crate) async fn cancel(client: Client, output: Output, job: String) -> Result<(), CliError> {
    let answer = again(|| {
        let (mut client, id) = (client.jobs(), job.clone());
        async move { client.cancel_job(timed(CancelJobRequest { id })).await }
    })
    .await?;
    print(output, answer)
}

pub(crate) fn print(output: Output, job: v1::Job) -> Result<(), CliError> {
    let job = Job::from(job);
    output.print(&job, || describe(&job))
}

/// Prints a job that ended; fails if it did.
pub(crate) fn finish(output: Output, job: v1::Job) -> Result<(), CliError> {
    let (state, detail) = (job.state(), job.error.clone());
    print(output, job)?;
    match state {
        v1::JobState::Succeeded | v1::JobState::SucceededWithWarnings => Ok(()),
        state => Err(CliError::JobEnded {
            state: ended_how(state).to_owned()
                + &detail.as_ref().map_or(String::new(), |error| format!(": {}", error.message)),
            detail: detail.map(Box::new),
        }),
    }
}

fn ended_how(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Cancelled => "was cancelled",
        other => crate::view::state_name(other),
    }
}

fn describe(job: &Job) -> String {
    let mut text = format!(
        "id       {}\nkind     {}\nmachine  {}\nstate    {}{}\npolicy   {}\ncreated  {}\nended    {}\npoint    {}\n",
        job.id,
        job.kind,
        job.machine,
        job.state,
        if job.cancel_requested && job.ended_at.is_none() { ", is being cancelled" } else { "" },
        or_dash(job.policy.as_deref()),
        or_dash(job.created_at.as_deref()),
        or_dash(job.ended_at.as_deref()),
        or_dash(job.point.as_deref()),
    );
    if let Some(error) = &job.error {
        text.push_str(&format!("error    {} ({})\n", error.message, error.code));
        if !error.action.is_empty() {
            text.push_str(&format!("next     {}\n", error.action));
        }
    }
    // Why a job that goes on has not come further.
    for step in job.steps.iter().filter(|_| job.ended_at.is_none()) {
        if let Some(error) = &step.error {
            text.push_str(&format!(
                "\n! {}, attempt {}: {} ({})\n  next: {}\n",
                step.kind,
                step.attempt,
                error.message,
                error.code,
                or_dash(Some(&error.action)),
            ));
        }
    }
    text.push('\n');
    text.push_str(&table(
        ["STEP", "STATE", "ATTEMPT", "TOTAL", "READ", "CHANGED", "SENT"],
        job.steps.iter().map(|step| {
            [
                step.kind.to_owned(),
                step.state.to_owned(),
                step.attempt.to_string(),
                size(step.total_bytes),
                size(step.read_bytes),
                size(step.changed_bytes),
                size(step.sent_bytes),
            ]
        }),
    ));
    text
}

fn wire_state(state: JobStateArg) -> v1::JobState {
    match state {
        JobStateArg::Queued => v1::JobState::Queued,
        JobStateArg::Running => v1::JobState::Running,
        JobStateArg::Succeeded => v1::JobState::Succeeded,
        JobStateArg::SucceededWithWarnings => v1::JobState::SucceededWithWarnings,
        JobStateArg::Failed => v1::JobState::Failed,
        JobStateArg::Cancelled => v1::JobState::Cancelled,
        JobStateArg::Expired => v1::JobState::Expired,
    }
}
