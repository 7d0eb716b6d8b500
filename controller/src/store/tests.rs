//! Statements with thought in them, against a real Postgres: `HOLDFAST_TEST_POSTGRES_URL` names a server on which
//! databases may be made.

mod claims;
mod column;
mod damage;
mod enrolments;
mod locks;
mod name_claims;
mod objectives;
mod removal;
mod reports;
mod requests;
mod schedules;
mod standing;
mod tokens;
mod transactions;
mod verifications;
mod waits;

use std::time::Duration;

use holdfast_proto::ids::{AgentId, JobId, MachineId};
use uuid::Uuid;

use super::agent::NewAgent;
use super::backup::NewBackup;
use super::session::NewSession;
use super::token::NewToken;
use super::waits::Waits;
use super::{Store, StoreError};
use crate::domain::snapshot::DiskRow;

/// A store over a database of its own; `None`, and the test is skipped, without a server.
pub(crate) async fn store() -> Option<Store> {
    store_that(Waits::default()).await
}

async fn store_that(waits: Waits) -> Option<Store> {
    let server = server()?;
    let name = format!("t_{}", Uuid::new_v4().simple());
    let admin = sqlx::PgPool::connect(&server).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
    let url = match server.split_once("/holdfast") {
        Some((before, after)) => format!("{before}/{name}{after}"),
        None => panic!("the test server's URL must name the database holdfast: {server}"),
    };
    Some(Store::connect_within(&url, waits).await.unwrap())
}

/// The server's URL; `None`, said loudly, where it is not set. With `CI` set that fails.
fn server() -> Option<String> {
    let server = std::env::var("HOLDFAST_TEST_POSTGRES_URL").ok();
    if server.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI must set HOLDFAST_TEST_POSTGRES_URL");
        eprintln!("SKIPPED: HOLDFAST_TEST_POSTGRES_URL is not set; tests/run sets it");
    }
    server
}

/// Runs statements of a test's own.
pub(crate) async fn execute(store: &Store, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&store.pool).await.unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_is_told_from_one_that_is_away() {
    let Some(server) = server() else { return };
    let unknown = server.replace("/holdfast", "/no_such_database");
    assert!(matches!(Store::connect(&unknown).await, Err(StoreError::Refused { .. })));
    let away = Store::connect("postgres://holdfast@127.0.0.1:1/holdfast").await;
    let Err(StoreError::Connect { source }) = away else { panic!("{away:?}") };
    assert!(source.to_string().contains("refused"), "it says why: {source}");
}

/// Enrols machines whose agents are connected to `controller`.
pub(crate) async fn machines(store: &Store, controller: Uuid, count: usize) -> Vec<(MachineId, AgentId)> {
    let token = rand::random();
    let max_uses = i32::try_from(count).unwrap();
    let new = NewToken {
        sha256: token,
        max_uses,
        ttl: Duration::from_secs(600),
        labels: [("env".to_owned(), "test".to_owned())].into(),
        machine: None,
        created_by: "test".to_owned(),
    };
    store.create_token(new).await.unwrap();
    let mut made = Vec::new();
    for number in 0..count {
        let (machine, agent) = (MachineId::generate(), AgentId::generate());
        let new = NewAgent {
            token_sha256: token,
            agent,
            machine,
            machine_name: format!("m{number}-{}", Uuid::new_v4().simple()),
            os: String::new(),
            version: "0".to_owned(),
            serial: Uuid::new_v4().to_string(),
            not_after: chrono::Utc::now(),
        };
        store.enrol(new).await.unwrap();
        connect(store, controller, machine, agent).await;
        made.push((machine, agent));
    }
    made
}

async fn connect(store: &Store, controller: Uuid, machine: MachineId, agent: AgentId) -> i64 {
    let disks = vec![DiskRow { name: "data".to_owned(), size_bytes: 4096 }];
    let new = NewSession { agent, machine, boot_id: "b".to_owned(), version: "0".to_owned(), disks };
    let epoch = store.open_session(new).await.unwrap();
    store.activate_session(agent, epoch, controller).await.unwrap();
    epoch
}

async fn queue(store: &Store, machine: MachineId) -> JobId {
    store.create_backup(asked_for(machine)).await.unwrap()
}

/// A backup of all disks.
fn asked_for(machine: MachineId) -> NewBackup {
    NewBackup {
        machine,
        disk_names: Vec::new(),
        requested_by: "test".to_owned(),
        request: None,
        policy: None,
    }
}
