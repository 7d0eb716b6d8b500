use serde::Serialize;

use holdfast_proto::v1::CreateEnrolmentTokenRequest;

use crate::args::TokenArgs;
use crate::client::{Client, timed};
use crate::error::CliError;
use crate::output::Output;
use crate::view;

#[derive(Debug, Serialize)]
struct Token {
    token: String,
    expires_at: Option<String>,
    ca_fingerprint: String,
}

pub(crate) async fn create(client: Client, output: Output, args: TokenArgs) -> Result<(), CliError> {
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
    let token = Token {
        token: answer.token,
        expires_at: view::time(answer.expires_at),
        ca_fingerprint: answer.ca_fingerprint,
    };
    output.print(&token, || {
        format!(
            "token           {}\nexpires         {}\nca fingerprint  {}\n\n\
             On the machine:\n  holdfast-agent enrol --config /etc/holdfast/agent.toml --token {} --ca-fingerprint {}",
            token.token,
            view::or_dash(token.expires_at.as_deref()),
            token.ca_fingerprint,
            token.token,
            token.ca_fingerprint,
        )
    })
}
