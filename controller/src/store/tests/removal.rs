use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use crate::domain::error::JobError;
use crate::domain::job::{JobState, StepKind, StepState};
use crate::store::agent::NewAgent;
use crate::store::attempt::{AttemptEnd, AttemptKey};
use crate::store::claim::ClaimedStep;
use crate::store::machine::Shown;
use crate::store::page::PageSize;
use crate::store::token::NewToken;
use crate::store::{Store, StoreError};

use super::claims::{claim_one, taken};
use super::{AgentId, MachineId, asked_for, connect, execute, machines, queue, store};

#[tokio::test]
async fn a_machine_is_not_removed_while_a_job_runs_and_what_is_queued_is_cancelled() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    assert!(claim_one(&store, controller).await.is_some());
    let waiting = queue(&store, machine).await;
    let busy = store.remove_machine(machine, "test").await;
    assert!(matches!(busy, Err(StoreError::MachineBusy { job: running }) if running == job.0), "{busy:?}");
    assert_eq!(store.find_job(waiting).await.unwrap().state, JobState::Queued);

    sqlx::query("UPDATE jobs SET state = 'failed', ended_at = now() WHERE id = $1")
        .bind(job.0)
        .execute(&store.pool)
        .await
        .unwrap();
    for _ in 0..2 {
        store.remove_machine(machine, "test").await.unwrap();
    }
    let cancelled = store.find_job(waiting).await.unwrap();
    assert_eq!(
        (cancelled.state, cancelled.error.unwrap().0.code.as_str()),
        (JobState::Cancelled, "machine_removed")
    );
    assert!(cancelled.steps.0.iter().all(|step| step.state == StepState::Skipped));
    assert!(matches!(store.machine_of(agent).await, Err(StoreError::NotFound { .. })));
    assert!(store.fleet().await.unwrap().is_empty());
    let shown =
        async |shown| store.list_machines(shown, None, PageSize::new(0).unwrap()).await.unwrap().rows.len();
    assert_eq!((shown(Shown::Living).await, shown(Shown::All).await), (0, 1));
    let audited: (i64,) = sqlx::query_as("SELECT count(*) FROM audit WHERE action = 'machine.remove'")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(audited, (1,), "the second time nothing was to be done");
}

/// It died during a backup: of whichever step, what waits for its agent waits in vain.
#[tokio::test]
async fn a_machine_that_died_is_removed_as_soon_as_no_attempt_is_out() {
    let Some(store) = store().await else { return };
    for died_in in StepKind::IN_ORDER {
        let controller = Uuid::new_v4();
        let (machine, agent) = machines(&store, controller, 1).await[0];
        let job = queue(&store, machine).await;
        loop {
            let step = claim_one(&store, controller).await.unwrap();
            let busy = store.remove_machine(machine, "test").await;
            assert!(matches!(busy, Err(StoreError::MachineBusy { job: out }) if out == job.0), "{busy:?}");
            let end = match step.kind {
                kind if kind == died_in => AttemptEnd::Lost,
                StepKind::TakeSnapshot => taken(),
                _ => AttemptEnd::Failed(JobError::no_progress()),
            };
            let key = AttemptKey { step: step.step, attempt: step.attempt, machine: None };
            store.end_attempt(key, end, Duration::ZERO).await.unwrap();
            if step.kind == died_in {
                break;
            }
        }
        store.close_session(agent, 1).await.unwrap();
        store.remove_machine(machine, "test").await.unwrap();
        let ended = store.find_job(job).await.unwrap();
        assert_eq!(ended.state, JobState::Failed, "{died_in:?}");
        let why = if died_in == StepKind::ReleaseSnapshot { "no_progress" } else { "machine_removed" };
        assert_eq!(ended.error.unwrap().0.code, why, "{died_in:?}");
        assert!(ended.ended_at.is_some(), "{died_in:?}");
        let open = |state: StepState| state == StepState::Pending || state.is_out();
        assert!(!ended.steps.0.iter().any(|step| open(step.state)), "{died_in:?}: {:?}", ended.steps);
        let busy: (bool,) =
            sqlx::query_as("SELECT active_job IS NOT NULL FROM machine_slots WHERE machine_id = $1")
                .bind(machine.0)
                .fetch_one(&store.pool)
                .await
                .unwrap();
        assert_eq!(busy, (false,), "{died_in:?}");
    }
}

/// Nobody else would ever tell it to.
#[tokio::test]
async fn a_snapshot_is_released_before_its_machine_is_removed_if_its_agent_is_there() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    let key = |step: &ClaimedStep| AttemptKey { step: step.step, attempt: step.attempt, machine: None };
    let busy = async || {
        let busy = store.remove_machine(machine, "test").await;
        assert!(matches!(busy, Err(StoreError::MachineBusy { job: held }) if held == job.0), "{busy:?}");
    };
    let take = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&take), taken(), Duration::ZERO).await.unwrap();
    busy().await;
    store.request_cancel(job, "test").await.unwrap();
    busy().await;
    let release = claim_one(&store, controller).await.unwrap();
    assert_eq!(release.kind, StepKind::ReleaseSnapshot);
    store.end_attempt(key(&release), AttemptEnd::Released, Duration::ZERO).await.unwrap();
    store.remove_machine(machine, "test").await.unwrap();
    assert_eq!(store.find_job(job).await.unwrap().state, JobState::Cancelled);
}

async fn give_agent(store: &Store, machine: MachineId, agent: AgentId) {
    for statement in [
        "INSERT INTO agents (id, machine_id, version) VALUES ($1, $2, '0')",
        "INSERT INTO agent_sessions (agent_id, machine_id, epoch) VALUES ($1, $2, 0)",
    ] {
        sqlx::query(statement).bind(agent.0).bind(machine.0).execute(&store.pool).await.unwrap();
    }
}

/// A controller that knows of no removals takes a removed machine for a living one.
#[tokio::test]
async fn a_removed_machine_that_got_an_agent_loses_it_once_more() {
    let Some(store) = store().await else { return };
    let (machine, _) = machines(&store, Uuid::new_v4(), 1).await[0];
    store.remove_machine(machine, "test").await.unwrap();
    let removed_at = store.find_machine(&machine.to_string()).await.unwrap().removed_at;
    let agent = AgentId::generate();
    execute(&store, "UPDATE machines SET removed_at = NULL").await;
    give_agent(&store, machine, agent).await;
    connect(&store, Uuid::new_v4(), machine, agent).await;
    let job = queue(&store, machine).await;
    sqlx::query("UPDATE machines SET removed_at = $1").bind(removed_at).execute(&store.pool).await.unwrap();
    assert_eq!(
        store.status(Duration::from_secs(3600)).await.unwrap().machines_online,
        0,
        "it is not one of those that are"
    );

    for _ in 0..2 {
        store.remove_machine(machine, "test").await.unwrap();
    }
    assert!(matches!(store.machine_of(agent).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.find_job(job).await.unwrap().state, JobState::Cancelled);
    assert_eq!(store.find_machine(&machine.to_string()).await.unwrap().removed_at, removed_at);
    let audited: (i64,) = sqlx::query_as("SELECT count(*) FROM audit WHERE action = 'machine.remove'")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(audited, (2,), "whenever something was to be done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_job_is_made_beside_the_removal_of_its_machine() {
    let Some(store) = store().await else { return };
    for (machine, _) in machines(&store, Uuid::new_v4(), 20).await {
        let asking: Vec<_> = (0..4)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.create_backup(asked_for(machine)).await })
            })
            .collect();
        store.remove_machine(machine, "test").await.unwrap();
        for asked in asking {
            let asked = asked.await.unwrap();
            assert!(matches!(asked, Ok(_) | Err(StoreError::MachineRemoved { .. })), "{asked:?}");
        }
    }
    let queued: (i64,) = sqlx::query_as("SELECT count(*) FROM jobs WHERE state = 'queued'")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(queued, (0,));
}

#[tokio::test]
async fn the_name_is_free_and_means_the_machine_that_has_it_now() {
    let Some(store) = store().await else { return };
    let (first, _) = machines(&store, Uuid::new_v4(), 1).await[0];
    let name = store.find_machine(&first.to_string()).await.unwrap().facts.name;
    let token = async |machine: Option<MachineId>| {
        let sha256 = rand::random();
        let (ttl, created_by) = (Duration::from_secs(600), "test".to_owned());
        let new = NewToken { sha256, max_uses: 1, ttl, labels: [].into(), machine, created_by };
        store.create_token(new).await.unwrap();
        sha256
    };
    let enrol = async |token_sha256| {
        let new = NewAgent {
            token_sha256,
            agent: AgentId::generate(),
            machine: MachineId::generate(),
            machine_name: name.clone(),
            os: String::new(),
            version: "0".to_owned(),
            serial: Uuid::new_v4().to_string(),
            not_after: Utc::now(),
        };
        store.enrol(new).await
    };
    let named = async || store.find_machine(&name).await.unwrap().facts.id;
    let to_take_over = token(Some(first)).await;
    store.remove_machine(first, "test").await.unwrap();
    let refused = enrol(to_take_over).await;
    assert!(matches!(refused, Err(StoreError::TokenRefused)), "{refused:?}");
    assert_eq!(named().await, first.0, "nobody else has the name");
    assert!(matches!(
        store.find_machine(&name).await.unwrap().living(),
        Err(StoreError::MachineRemoved { id, .. }) if id == first.0
    ));

    // Of a controller that knows of no removals: an agent that was never seen. The machine makes room for nobody all the same.
    give_agent(&store, first, AgentId::generate()).await;
    let second = enrol(token(None).await).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(named().await, second.0);
    let taken = enrol(token(None).await).await;
    assert!(
        matches!(taken, Ok(again) if again == second),
        "whose agent was never seen gets another one: {taken:?}"
    );
    store.remove_machine(second, "test").await.unwrap();
    assert_eq!(named().await, second.0, "of several that had it the last one");
    // A page ends between two of one name.
    let one = PageSize::new(1).unwrap();
    let page = store.list_machines(Shown::All, None, one).await.unwrap();
    let after =
        crate::store::machine::parse_name_key(&crate::store::page::decode(&page.next).unwrap().unwrap());
    let of_an_older_controller = crate::store::machine::parse_name_key(&name);
    let again = store.list_machines(Shown::All, of_an_older_controller, one).await.unwrap();
    assert_eq!(again.rows[0].facts.id, page.rows[0].facts.id, "neither of the two is left out");
    let rest = store.list_machines(Shown::All, after, one).await.unwrap();
    let mut both = [page.rows[0].facts.id, rest.rows[0].facts.id];
    both.sort_unstable();
    let mut expected = [first.0, second.0];
    expected.sort_unstable();
    assert_eq!((both, rest.next.as_str()), (expected, ""));
}
