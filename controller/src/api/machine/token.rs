//! Enrolment tokens.

use std::time::Duration;

use tonic::{Code, Status};

use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::ids::MachineId;
use holdfast_proto::v1::{
    CreateEnrolmentTokenRequest, CreateEnrolmentTokenResponse, EnrolmentToken, EnrolmentTokenState,
    ListEnrolmentTokensRequest, ListEnrolmentTokensResponse, RevokeEnrolmentTokenResponse,
};

use crate::api::wire;
use crate::app::App;
use crate::domain::token::TokenState;
use crate::pki::sha256;
use crate::rpc_error::invalid;
use crate::store::token::{NewToken, Revoked, Shown, TokenRow, id_of, parse_token_key};

use super::check_labels;

const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Of every token, so that whoever finds one knows what it is.
const PREFIX: &str = "hft_";

pub(super) async fn create(
    app: &App,
    operator: String,
    request: CreateEnrolmentTokenRequest,
) -> Result<CreateEnrolmentTokenResponse, Status> {
    let max_uses = match request.max_uses {
        0 => 1,
        uses @ 1..=100_000 => uses,
        _ => return Err(invalid("invalid_max_uses", "max_uses must be 1 to 100000")),
    };
    let ttl = read_ttl(request.ttl)?;
    let labels = check_labels(request.labels)?;
    let (machine, machine_name) = match request.machine.as_str() {
        "" => (None, String::new()),
        name_or_id => {
            let row = app.store.find_machine(name_or_id).await?.living()?;
            (Some(MachineId(row.facts.id)), row.facts.name)
        }
    };
    if machine.is_some() && (max_uses > 1 || !labels.is_empty()) {
        return Err(user_error(
            "invalid_argument",
            "a token for a machine that exists is good once, and the machine keeps its labels",
        )
        .action("leave --uses and --label out; `holdfast machine label` changes labels")
        .into_status(Code::InvalidArgument));
    }
    let token = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()));
    let sha256 = sha256(token.as_bytes());
    let new = NewToken { sha256, max_uses, ttl, labels, machine, created_by: operator };
    let expires_at = app.store.create_token(new).await?;
    Ok(CreateEnrolmentTokenResponse {
        token,
        expires_at: Some(wire::timestamp(expires_at)),
        ca_fingerprint: app.ca.fingerprint(),
        id: id_of(&sha256),
        machine_name,
    })
}

pub(super) async fn list(
    app: &App,
    request: &ListEnrolmentTokensRequest,
) -> Result<ListEnrolmentTokensResponse, Status> {
    let after = wire::page_after(&request.page_token, |key| parse_token_key(&key))?;
    let shown = if request.show_all { Shown::All } else { Shown::Usable };
    let page = app.store.list_tokens(shown, after, wire::page_size(request.page_size)?).await?;
    let (tokens, next_page_token) = wire::fitting(page, to_wire);
    Ok(ListEnrolmentTokensResponse { tokens, next_page_token })
}

pub(super) async fn revoke(
    app: &App,
    operator: &str,
    id: &str,
) -> Result<RevokeEnrolmentTokenResponse, Status> {
    // Of one that leaked its own text is at hand first, and no answer repeats it.
    let id = if id.starts_with(PREFIX) { id_of(&sha256(id.as_bytes())) } else { id.to_owned() };
    let (row, done) = app.store.revoke_token(&id, operator).await?;
    Ok(RevokeEnrolmentTokenResponse { token: Some(to_wire(row)), was_revoked: done == Revoked::Before })
}

fn read_ttl(ttl: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(ttl) = ttl else { return Ok(DEFAULT_TTL) };
    Duration::try_from(ttl)
        .ok()
        .filter(|ttl| *ttl >= Duration::from_secs(1) && *ttl <= MAX_TTL)
        .ok_or_else(|| invalid("invalid_ttl", "ttl must be 1 second to 30 days"))
}

fn to_wire(row: TokenRow) -> EnrolmentToken {
    let state = match row.state {
        TokenState::Usable => EnrolmentTokenState::Usable,
        TokenState::UsedUp => EnrolmentTokenState::UsedUp,
        TokenState::Expired => EnrolmentTokenState::Expired,
        TokenState::Revoked => EnrolmentTokenState::Revoked,
        TokenState::MachineRemoved => EnrolmentTokenState::MachineRemoved,
    };
    EnrolmentToken {
        id: row.id,
        state: state.into(),
        created_by: row.created_by,
        created_at: Some(wire::timestamp(row.created_at)),
        expires_at: Some(wire::timestamp(row.expires_at)),
        max_uses: row.max_uses,
        uses: row.uses,
        labels: row.labels.0.into_iter().collect(),
        machine_id: row.machine_id.map(|id| id.to_string()).unwrap_or_default(),
        machine_name: row.machine_name.unwrap_or_default(),
        revoked_at: row.revoked_at.map(wire::timestamp),
    }
}
