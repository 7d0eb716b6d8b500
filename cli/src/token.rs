mod file;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use holdfast_proto::v1::{
    self, CreateEnrolmentTokenRequest, EnrolmentTokenState, ListEnrolmentTokensRequest,
    RevokeEnrolmentTokenRequest,
};

use crate::args::TokenArgs;
use crate::client::{Client, again, timed};
use crate::error::CliError;
use crate::interrupt::unless_interrupted;
use crate::output::{Output, table};
use crate::view::{or_dash, some, time};

use file::TokenFile;

/// A token that was made: the one time that it is told.
#[derive(Debug, Serialize)]
struct Created {
    id: String,
    /// `null` if it went to a file.
    token: Option<String>,
    file: Option<String>,
    /// The machine that it is for; `null` if it makes machines.
    machine: Option<String>,
    expires_at: Option<String>,
    ca_fingerprint: String,
}

#[derive(Debug, Serialize)]
struct Token {
    id: String,
    state: &'static str,
    created_by: String,
    created_at: Option<String>,
    expires_at: Option<String>,
    max_uses: i32,
    uses: i32,
    uses_left: i32,
    labels: BTreeMap<String, String>,
    /// The machine that it is for; `null` if it makes machines.
    machine: Option<String>,
    machine_id: Option<String>,
    revoked_at: Option<String>,
}

/// Refuses a file that is there before the controller is asked anything.
pub(crate) fn check_file(args: &TokenArgs) -> Result<(), CliError> {
    args.to.as_deref().map_or(Ok(()), file::check)
}

/// Makes a token; a signal leaves no file behind.
pub(crate) async fn create(client: Client, output: Output, args: TokenArgs) -> Result<(), CliError> {
    let created = unless_interrupted(make(client, args)).await?;
    output.print(&created, || created.describe())
}

pub(crate) async fn list(client: Client, output: Output, show_all: bool) -> Result<(), CliError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEnrolmentTokensRequest { page_size: 1000, page_token, show_all };
        let page = again(|| {
            let (mut client, request) = (client.machines(), request.clone());
            async move { client.list_enrolment_tokens(timed(request)).await }
        })
        .await?;
        tokens.extend(page.tokens.into_iter().map(Token::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.print(&tokens, || {
        table(
            ["ID", "STATE", "USES LEFT", "EXPIRES", "MACHINE", "LABELS", "CREATED", "BY", "REVOKED"],
            tokens.iter().map(|token| {
                let labels = token.labels.iter().map(|(key, value)| format!("{key}={value}"));
                [
                    token.id.clone(),
                    token.state.to_owned(),
                    format!("{} of {}", token.uses_left, token.max_uses),
                    or_dash(token.expires_at.as_deref()),
                    or_dash(token.machine.as_deref()),
                    or_dash(Some(&labels.collect::<Vec<_>>().join(" "))),
                    or_dash(token.created_at.as_deref()),
                    token.created_by.clone(),
                    or_dash(token.revoked_at.as_deref()),
                ]
            }),
        )
    })
}

pub(crate) async fn revoke(client: Client, output: Output, token: String) -> Result<(), CliError> {
    let request = RevokeEnrolmentTokenRequest { token };
    let answer = again(|| {
        let (mut client, request) = (client.machines(), request.clone());
        async move { client.revoke_enrolment_token(timed(request)).await }
    })
    .await?;
    let was_revoked = if answer.was_revoked { "was revoked already" } else { "is revoked" };
    let token = Token::from(answer.token.unwrap_or_default());
    output.print(&token, || {
        let stay = match token.uses {
            0 => "no agent enrolled with it".to_owned(),
            uses => format!("agents that enrolled with it stay: {uses} (the audit trail names them)"),
        };
        let at = or_dash(token.revoked_at.as_deref());
        format!("token {} {was_revoked}: nobody enrols with it since {at}\n{stay}", token.id)
    })
}

async fn make(client: Client, args: TokenArgs) -> Result<Created, CliError> {
    let file = args.to.as_deref().map(TokenFile::create).transpose()?;
    let wanted_machine = args.machine.clone();
    let request = CreateEnrolmentTokenRequest {
        max_uses: args.uses,
        ttl: Some(prost_types::Duration {
            seconds: i64::try_from(args.ttl.as_secs()).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        labels: args.labels.into_iter().collect(),
        machine: args.machine.unwrap_or_default(),
    };
    // Not repeated: the token is told only once.
    let answer = client.machines().create_enrolment_token(timed(request)).await?.into_inner();
    let token = match file {
        Some(file) => file.write(&answer.token).map(|()| None)?,
        None => Some(answer.token),
    };
    Ok(Created {
        id: answer.id,
        token,
        file: args.to.as_deref().map(|path| path.display().to_string()),
        // A controller of before does not tell it, and an id is no name.
        machine: some(answer.machine_name).or(wanted_machine.filter(|given| given.parse::<Uuid>().is_err())),
        expires_at: time(answer.expires_at),
        ca_fingerprint: answer.ca_fingerprint,
    })
}

impl Created {
    fn describe(&self) -> String {
        let (what, secret) = match (&self.token, &self.file) {
            (Some(token), _) => (format!("token           {token}"), format!("--token {token}")),
            (None, file) => {
                let file = or_dash(file.as_deref());
                let name = Path::new(&file).file_name().map(|name| name.to_string_lossy().into_owned());
                (format!("file            {file}"), format!("--token-file {}", name.unwrap_or_default()))
            }
        };
        // Whoever takes a machine's place may have an identity that is of no more use, which an agent that runs holds on to, and another
        // host name.
        let (place, before, then) = match &self.machine {
            None => (String::new(), "", ""),
            Some(name) => (
                format!(" --force --name {name}"),
                "systemctl stop holdfast-agent\n  ",
                "\n  systemctl start holdfast-agent",
            ),
        };
        let first =
            if self.token.is_some() { "On the machine:" } else { "Copy the file to the machine, and there:" };
        format!(
            "id              {}\n{what}\nexpires         {}\nca fingerprint  {}\n\n\
             {first}\n  {before}holdfast-agent enrol --config /etc/holdfast/agent.toml{place} {secret} --ca-fingerprint {}{then}",
            or_dash(Some(&self.id)),
            or_dash(self.expires_at.as_deref()),
            self.ca_fingerprint,
            self.ca_fingerprint,
        )
    }
}

impl From<v1::EnrolmentToken> for Token {
    fn from(token: v1::EnrolmentToken) -> Self {
        let state = match token.state() {
            EnrolmentTokenState::Usable => "usable",
            EnrolmentTokenState::UsedUp => "used_up",
            EnrolmentTokenState::Expired => "expired",
            EnrolmentTokenState::Revoked => "revoked",
            EnrolmentTokenState::MachineRemoved => "machine_removed",
            EnrolmentTokenState::Unspecified => "unknown",
        };
        Self {
            state,
            id: token.id,
            created_by: token.created_by,
            created_at: time(token.created_at),
            expires_at: time(token.expires_at),
            max_uses: token.max_uses,
            uses: token.uses,
            uses_left: token.max_uses.saturating_sub(token.uses),
            labels: token.labels.into_iter().collect(),
            machine: some(token.machine_name),
            machine_id: some(token.machine_id),
            revoked_at: time(token.revoked_at),
        }
    }
}
