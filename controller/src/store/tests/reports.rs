use std::time::Duration;

use uuid::Uuid;

use crate::domain::backup::{MAX_TRIES, SNAPSHOT_LOST};
use crate::domain::error::JobError;
use crate::domain::job::JobState;
use crate::store::Store;
use crate::store::attempt::{AttemptEnd, AttemptKey, Recorded};
use crate::store::claim::ClaimedStep;
use crate::store::session::ProgressUpdate;
use holdfast_proto::ids::{JobId, MachineId};

use super::claims::{claim_one, commit_of, point, taken};
use super::{connect, execute, machines, queue, store};

const NOW: Duration = Duration::ZERO;
const LEASE: Duration = Duration::from_secs(60);

/// The transfer of a new backup.
pub(super) async fn transfer(store: &Store, controller: Uuid, machine: MachineId) -> ClaimedStep {
    let _ = queue(store, machine).await;
    let step = claim_one(store, controller).await.unwrap();
    store.end_attempt(key(&step), taken(), NOW).await.unwrap();
    claim_one(store, controller).await.unwrap()
}

pub(super) fn key(step: &ClaimedStep) -> AttemptKey {
    AttemptKey { step: step.step, attempt: step.attempt, machine: None }
}

async fn state_of(store: &Store, step: &ClaimedStep) -> (String, Option<String>) {
    sqlx::query_as(
        "SELECT s.state, a.error ->> 'code' FROM steps s JOIN step_attempts a ON a.step_id = s.id AND a.attempt = $2
         WHERE s.id = $1",
    )
    .bind(step.step.0)
    .bind(step.attempt)
    .fetch_one(&store.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_earlier_point_is_not_what_an_attempt_made() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    let first = transfer(&store, controller, machine).await;
    let made = point(machine, &first);
    store.record_point(made.clone(), NOW).await.unwrap();
    let release = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&release), AttemptEnd::Released, NOW).await.unwrap();

    let second = transfer(&store, controller, machine).await;
    let earlier = AttemptEnd::Transferred { point: made.id.0 };
    store.end_attempt(key(&second), earlier.clone(), NOW).await.unwrap();
    let unconfirmed = ("pending".to_owned(), Some(JobError::unconfirmed_point().code));
    assert_eq!(state_of(&store, &second).await, unconfirmed, "it is tried again");
    let again = claim_one(&store, controller).await.unwrap();
    // Nor is that of another attempt of the same step.
    store.record_point(point(machine, &second), NOW).await.unwrap();
    store.end_attempt(key(&again), earlier, NOW).await.unwrap();
    assert_eq!(state_of(&store, &again).await, unconfirmed);
    let last = claim_one(&store, controller).await.unwrap();
    let made = point(machine, &last);
    store.record_point(made.clone(), NOW).await.unwrap();
    let repeated = AttemptEnd::Transferred { point: made.id.0 };
    store.end_attempt(key(&last), repeated, NOW).await.unwrap();
    assert_eq!(state_of(&store, &last).await, ("done".to_owned(), None));
}

/// Only numbers that change are progress, not that they are told.
#[tokio::test]
async fn an_attempt_is_stalled_if_its_numbers_stand_still() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    let step = transfer(&store, controller, machine).await;
    let long_ago = async || {
        sqlx::query("UPDATE steps SET progressed_at = now() - interval '5 hours' WHERE id = $1")
            .bind(step.step.0)
            .execute(&store.pool)
            .await
            .unwrap();
    };
    let (patience, told) = (Duration::from_secs(4 * 3600), std::cell::Cell::new(0));
    let tell = async |read_bytes: i64| {
        told.set(told.get() + 1);
        let update = ProgressUpdate {
            machine: machine.0,
            step: step.step.0,
            attempt: step.attempt,
            sequence: told.get(),
            total_bytes: 4096,
            read_bytes,
            ..ProgressUpdate::default()
        };
        store.record_progress(&[update]).await.unwrap();
    };
    let stalled = async || store.stalled_attempts(controller, patience).await.unwrap();
    assert_eq!(stalled().await, [], "it was claimed just now");
    tell(1).await;
    long_ago().await;
    tell(1).await;
    let [found] = stalled().await.try_into().unwrap();
    assert_eq!((found.step, found.attempt, found.agent), (step.step, step.attempt, agent));
    assert_eq!(store.stalled_attempts(Uuid::new_v4(), patience).await.unwrap(), [], "another one's");

    // It gets on, or comes to another controller that knows nothing of it.
    tell(2).await;
    assert_eq!(stalled().await, []);
    assert!(!store.end_stalled(found, patience, NOW).await.unwrap(), "it got on meanwhile");
    long_ago().await;
    let running = [(step.step, step.attempt)];
    store.adopt(machine, controller, &running, NOW).await.unwrap();
    assert_eq!(stalled().await.len(), 1, "a new session is no progress");
    let other = Uuid::new_v4();
    store.adopt(machine, other, &running, NOW).await.unwrap();
    assert_eq!(store.stalled_attempts(other, patience).await.unwrap(), []);

    // A commit that began is the resolver's.
    long_ago().await;
    store.begin_commit(step.step, step.attempt, commit_of(1), Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.stalled_attempts(other, patience).await.unwrap(), []);
    assert!(!store.end_stalled(found, patience, NOW).await.unwrap());
    store.commit_aborted(step.step, step.attempt, 1, NOW, NOW).await.unwrap();
    assert!(store.end_stalled(found, patience, NOW).await.unwrap());
    assert_eq!(state_of(&store, &step).await, ("failed".to_owned(), Some("no_progress".to_owned())));
}

/// Two controllers claim the same step. What the first one still says of its claim must not hit that of the second one.
#[tokio::test]
async fn the_number_of_a_claim_that_was_taken_back_is_never_given_out_again() {
    let Some(store) = store().await else { return };
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    let (machine, agent) = machines(&store, first, 1).await[0];
    queue(&store, machine).await;
    for number in 1..=i64::from(MAX_TRIES) + 1 {
        let claimed = claim_one(&store, first).await.unwrap();
        assert_eq!(claimed.attempt, number);
        store.undo_claim(&claimed, first).await.unwrap();
        connect(&store, first, machine, agent).await;
    }
    let undone = claim_one(&store, first).await.unwrap();
    store.undo_claim(&undone, first).await.unwrap();
    connect(&store, second, machine, agent).await;
    let claimed = claim_one(&store, second).await.unwrap();
    assert_eq!(store.end_attempt(key(&undone), AttemptEnd::Lost, NOW).await.unwrap(), Recorded::Stale);
    assert!(store.is_live(claimed.step, claimed.attempt).await.unwrap());
    // What no agent heard of was no try.
    store.end_attempt(key(&claimed), AttemptEnd::Lost, NOW).await.unwrap();
    assert_eq!(state_of(&store, &claimed).await.0, "pending");
}

/// Of which no agent heard waits for its agent, and for its deadline, like one that was never claimed.
#[tokio::test]
async fn a_job_whose_first_claim_is_taken_back_is_queued_again() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    for _ in 0..2 {
        let undone = claim_one(&store, controller).await.unwrap();
        store.undo_claim(&undone, controller).await.unwrap();
        let row = store.find_job(job).await.unwrap();
        assert_eq!((row.state, row.started_at), (JobState::Queued, None));
        connect(&store, controller, machine, agent).await;
    }
    execute(&store, "UPDATE jobs SET expires_at = now() - interval '1 second'").await;
    assert_eq!(store.overdue_jobs().await.unwrap(), [(job, machine)]);
    store.expire_job(job, machine).await.unwrap();
    assert_eq!(store.find_job(job).await.unwrap().state, JobState::Expired);

    let cancelled = queue(&store, machine).await;
    let undone = claim_one(&store, controller).await.unwrap();
    store.request_cancel(cancelled, "test").await.unwrap();
    store.undo_claim(&undone, controller).await.unwrap();
    let row = store.find_job(cancelled).await.unwrap();
    assert_eq!((row.state, row.error.unwrap().0.code.as_str()), (JobState::Cancelled, "cancelled"));
    connect(&store, controller, machine, agent).await;

    // It has begun.
    let begun = queue(&store, machine).await;
    let lost = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&lost), AttemptEnd::Lost, NOW).await.unwrap();
    let undone = claim_one(&store, controller).await.unwrap();
    store.undo_claim(&undone, controller).await.unwrap();
    assert_eq!(store.find_job(begun).await.unwrap().state, JobState::Running);
}

#[tokio::test]
async fn a_job_whose_agent_stays_away_ends_whole() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, agent) = machines(&store, controller, 1).await[0];
    let patience = Duration::from_secs(3600);
    let step = transfer(&store, controller, machine).await;
    store.end_attempt(key(&step), AttemptEnd::Lost, NOW).await.unwrap();
    store.close_session(agent, 1).await.unwrap();
    assert_eq!(store.abandoned_steps(patience).await.unwrap(), []);
    execute(&store, "UPDATE steps SET ready_at = ready_at - interval '2 hours'").await;
    execute(&store, "UPDATE agent_sessions SET last_seen_at = now() - interval '2 hours'").await;
    assert_eq!(store.abandoned_steps(patience).await.unwrap(), [step.step]);
    let (job,): (Uuid,) = sqlx::query_as("SELECT id FROM jobs").fetch_one(&store.pool).await.unwrap();
    let job = JobId(job);

    let epoch = connect(&store, controller, machine, agent).await;
    assert!(!store.end_abandoned(step.step, patience).await.unwrap(), "it came back meanwhile");
    store.close_session(agent, epoch).await.unwrap();
    execute(&store, "UPDATE agent_sessions SET last_seen_at = now() - interval '2 hours'").await;
    assert!(store.end_abandoned(step.step, patience).await.unwrap());
    let row = store.find_job(job).await.unwrap();
    assert_eq!((row.state, row.error.unwrap().0.code.as_str()), (JobState::Failed, "agent_lost"));
    let _ = queue(&store, machine).await;
    connect(&store, controller, machine, agent).await;
    assert!(claim_one(&store, controller).await.is_some(), "the slot is free");
}

#[tokio::test]
async fn a_new_round_has_its_tries_anew() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    queue(&store, machine).await;
    let lose = async |times: i32| {
        for _ in 0..times {
            let claimed = claim_one(&store, controller).await.unwrap();
            store.end_attempt(key(&claimed), AttemptEnd::Lost, NOW).await.unwrap();
        }
    };
    let mut numbers = Vec::new();
    for _ in 0..2 {
        lose(MAX_TRIES - 1).await;
        let take = claim_one(&store, controller).await.unwrap();
        store.end_attempt(key(&take), taken(), NOW).await.unwrap();
        lose(MAX_TRIES - 1).await;
        let transfer = claim_one(&store, controller).await.unwrap();
        let lost = JobError { code: SNAPSHOT_LOST.to_owned(), ..JobError::expired() };
        store.end_attempt(key(&transfer), AttemptEnd::Failed(lost), NOW).await.unwrap();
        numbers.push((take.attempt, transfer.attempt));
    }
    assert_eq!(numbers, [(5, 5), (10, 10)], "numbers only grow");
    let third = claim_one(&store, controller).await.unwrap();
    assert_eq!((third.kind.as_str(), third.attempt), ("take_snapshot", 11));
}

/// The agent's own reason, not that it was lost: it was there, and said so.
#[tokio::test]
async fn what_was_said_during_a_commit_counts_if_there_is_no_point() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    let take = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&take), taken(), NOW).await.unwrap();
    let step = claim_one(&store, controller).await.unwrap();
    store.begin_commit(step.step, step.attempt, commit_of(7), LEASE).await.unwrap();
    let why = JobError { code: "disk_unreadable".to_owned(), ..JobError::no_progress() };
    for end in [AttemptEnd::Lost, AttemptEnd::Failed(why.clone()), AttemptEnd::Lost] {
        assert_eq!(store.end_attempt(key(&step), end, NOW).await.unwrap(), Recorded::Yes);
    }
    assert!(store.is_live(step.step, step.attempt).await.unwrap(), "the vault was not asked yet");
    store.commit_aborted(step.step, step.attempt, 6, LEASE, NOW).await.unwrap();
    assert!(store.is_live(step.step, step.attempt).await.unwrap(), "that was another one");
    store.commit_aborted(step.step, step.attempt, 7, LEASE, NOW).await.unwrap();
    assert_eq!(state_of(&store, &step).await, ("failed".to_owned(), Some(why.code.clone())));
    let release = claim_one(&store, controller).await.unwrap();
    store.end_attempt(key(&release), AttemptEnd::Released, NOW).await.unwrap();
    let ended = store.find_job(job).await.unwrap();
    assert_eq!((ended.state, ended.error.unwrap().0), (JobState::Failed, why));

    // There is one after all.
    let step = transfer(&store, controller, machine).await;
    store.begin_commit(step.step, step.attempt, commit_of(8), LEASE).await.unwrap();
    store.end_attempt(key(&step), AttemptEnd::Cancelled, NOW).await.unwrap();
    store.record_point(point(machine, &step), NOW).await.unwrap();
    assert_eq!(state_of(&store, &step).await, ("done".to_owned(), None));
}

/// All that is lost with a gateway is lost at one time.
#[tokio::test]
async fn what_was_lost_at_one_time_is_not_ready_at_one_time() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    for (machine, _) in machines(&store, controller, 8).await {
        queue(&store, machine).await;
    }
    for step in store.claim_steps(controller, 100, LEASE, 100).await.unwrap() {
        store.end_attempt(key(&step), AttemptEnd::Lost, LEASE).await.unwrap();
    }
    let (first, spread): (f64, f64) = sqlx::query_as(
        "SELECT extract(epoch FROM min(ready_at) - now())::float8, extract(epoch FROM max(ready_at) - min(ready_at))::float8
         FROM steps WHERE kind = 'take_snapshot'",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    // Of eight the chance that all lie within a sixth of the range is one in some 30,000.
    assert!(first > 20.0 && spread > 10.0 && spread < 65.0, "{first} {spread}");
}
