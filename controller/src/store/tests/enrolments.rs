use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use crate::domain::job::JobState;
use crate::store::agent::NewAgent;
use crate::store::machine::LabelChange;
use crate::store::token::NewToken;
use crate::store::{Store, StoreError};

use super::{AgentId, MachineId, connect, queue, store};

async fn enrol(store: &Store, labels: &[(&str, &str)]) -> Result<(MachineId, AgentId), StoreError> {
    let token_sha256 = rand::random();
    let new = NewToken {
        sha256: token_sha256,
        max_uses: 1,
        ttl: Duration::from_secs(600),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        machine: None,
        created_by: "test".to_owned(),
    };
    store.create_token(new).await.unwrap();
    let agent = AgentId::generate();
    let new = NewAgent {
        token_sha256,
        agent,
        machine: MachineId::generate(),
        machine_name: "web1".to_owned(),
        os: String::new(),
        version: "0".to_owned(),
        serial: Uuid::new_v4().to_string(),
        not_after: Utc::now(),
    };
    Ok((store.enrol(new).await?, agent))
}

/// Its first answer was lost, and the token with it.
#[tokio::test]
async fn who_enrols_anew_before_its_first_session_finds_its_jobs_and_labels() {
    let Some(store) = store().await else { return };
    let (machine, first) = enrol(&store, &[("env", "test"), ("site", "a")]).await.unwrap();
    let job = queue(&store, machine).await;
    let set = BTreeMap::from([("owner".to_owned(), "ann".to_owned())]);
    store.label_machine(machine, LabelChange { set, remove: Vec::new() }, "test").await.unwrap();

    let (again, second) = enrol(&store, &[("env", "live")]).await.unwrap();
    assert_eq!(again, machine);
    assert!(matches!(store.machine_of(first).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.machine_of(second).await.unwrap(), machine);
    assert_eq!(store.find_job(job).await.unwrap().state, JobState::Queued);
    let labels = store.find_machine("web1").await.unwrap().facts.labels;
    let label = |key: &str| labels.get(key).map(String::as_str);
    assert_eq!((label("env"), label("site"), label("owner")), (Some("live"), Some("a"), Some("ann")));

    connect(&store, Uuid::new_v4(), machine, second).await;
    let taken = enrol(&store, &[]).await;
    assert!(matches!(taken, Err(StoreError::NameTaken { .. })), "{taken:?}");
}
