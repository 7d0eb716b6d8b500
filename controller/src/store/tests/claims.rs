use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use crate::domain::error::JobError;
use crate::domain::job::{Consistency, JobState, StepKind, StepState};
use crate::domain::snapshot::{DiskRow, TakenSnapshot};
use crate::store::attempt::{AttemptEnd, AttemptKey, Recorded};
use crate::store::claim::ClaimedStep;
use crate::store::commit::{NewCommit, NewPoint};
use crate::store::point::PointDiskRow;
use crate::store::{Store, StoreError};
use holdfast_proto::ids::{MachineId, PointId};

use super::{machines, queue, store};

const LEASE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

/// Eight controllers claim and finish at once while two reapers run: each step is claimed once per attempt, no machine runs
/// two jobs, no gateway has more transfers than it may, every job ends well, and nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_controllers_claim_and_finish_every_job_once() {
    let Some(store) = store().await else { return };
    const CONTROLLERS: usize = 8;
    const MACHINES: usize = 25;
    const JOBS: usize = 3_000;
    const MAX_TRANSFERS: u32 = 3;
    let controllers: Vec<Uuid> = (0..CONTROLLERS).map(|_| Uuid::new_v4()).collect();
    let mut all = Vec::new();
    for controller in &controllers {
        all.extend(machines(&store, *controller, MACHINES).await);
    }
    let ids: Vec<Uuid> = all.iter().map(|(machine, _)| machine.0).collect();
    sqlx::query(
        // Deadlines in no order: a transfer that becomes ready may come before those that others are about to claim.
        "INSERT INTO jobs (id, kind, state, machine_id, requested_by, expires_at, deadline)
         SELECT gen_random_uuid(), 'backup', 'queued', ($1::uuid[])[1 + g % $2], 'test', now() + interval '1 day',
                now() + random() * interval '1 day'
         FROM generate_series(1, $3) g",
    )
    .bind(&ids)
    .bind(i32::try_from(ids.len()).unwrap())
    .bind(i32::try_from(JOBS).unwrap())
    .execute(&store.pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO steps (id, job_id, kind, state, ready_at)
         SELECT gen_random_uuid(), j.id, k, 'pending', CASE WHEN k = 'take_snapshot' THEN now() END
         FROM jobs j, unnest(ARRAY['take_snapshot', 'transfer_data', 'release_snapshot']) k",
    )
    .execute(&store.pool)
    .await
    .unwrap();

    let (done, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    // Each controller twice, as after a restart that overlaps: sixteen claimers on eight sets of machines.
    for controller in controllers.iter().chain(&controllers) {
        let (store, controller, done) = (store.clone(), *controller, Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            let mut claimed_here = Vec::new();
            while done.load(Ordering::Relaxed) < JOBS {
                let claimed = store.claim_steps(controller, 20, LEASE, MAX_TRANSFERS).await.unwrap();
                if claimed.is_empty() {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                for step in claimed {
                    claimed_here.push((step.step, step.attempt));
                    if finish(&store, &step).await {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            claimed_here
        }));
    }
    let reapers: Vec<_> = (0..2)
        .map(|_| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    for (step, attempt) in store.expired_leases().await.unwrap() {
                        let key = AttemptKey { step, attempt, machine: None };
                        store.end_attempt(key, AttemptEnd::Lost, NOW).await.unwrap();
                    }
                    for (job, machine) in store.overdue_jobs().await.unwrap() {
                        store.expire_job(job, machine).await.unwrap();
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    let watcher = tokio::spawn(most_transfers_at_once(store.clone(), Arc::clone(&over)));
    let mut seen = HashSet::new();
    for task in tasks {
        let claimed =
            tokio::time::timeout(Duration::from_secs(300), task).await.expect("the jobs do not end").unwrap();
        for claim in claimed {
            assert!(seen.insert(claim), "{claim:?} was claimed twice");
        }
    }
    over.store(true, Ordering::Relaxed);
    for reaper in reapers {
        reaper.await.unwrap();
    }
    let most = watcher.await.unwrap();
    assert!((1..=i64::from(MAX_TRANSFERS)).contains(&most), "{most} transfers at once through one gateway");
    let (succeeded, busy): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM jobs WHERE state = 'succeeded'),
                (SELECT count(*) FROM machine_slots WHERE active_job IS NOT NULL)",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!((succeeded, busy), (i64::try_from(JOBS).unwrap(), 0));
    assert_eq!(seen.len(), 3 * JOBS, "each step ran once");
}

/// The most transfers that any controller had out at one instant.
async fn most_transfers_at_once(store: Store, over: Arc<AtomicBool>) -> i64 {
    let mut most = 0;
    while !over.load(Ordering::Relaxed) {
        let (now,): (Option<i64>,) = sqlx::query_as(
            "SELECT max(count) FROM (SELECT count(*) FROM steps WHERE kind = 'transfer_data'
               AND state IN ('dispatched', 'running') GROUP BY controller_id) out",
        )
        .fetch_one(&store.pool)
        .await
        .unwrap();
        most = most.max(now.unwrap_or(0));
        // It looks often enough, and leaves the database to those that it watches.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    most
}

/// Plays the agent and the gateway; answers whether the job ended with it.
async fn finish(store: &Store, step: &ClaimedStep) -> bool {
    let key = AttemptKey { step: step.step, attempt: step.attempt, machine: None };
    match step.kind {
        StepKind::TakeSnapshot => {
            assert_eq!(store.end_attempt(key, taken(), NOW).await.unwrap(), Recorded::Yes);
            false
        }
        StepKind::TransferData => {
            let machine = store.machine_of(step.agent).await.unwrap();
            store.record_point(point(machine, step), NOW).await.unwrap();
            false
        }
        StepKind::ReleaseSnapshot => {
            assert_eq!(store.end_attempt(key, AttemptEnd::Released, NOW).await.unwrap(), Recorded::Yes);
            true
        }
    }
}

pub(super) fn taken() -> AttemptEnd {
    AttemptEnd::SnapshotTaken(TakenSnapshot {
        id: Uuid::new_v4(),
        consistency: Consistency::FileSystem,
        taken_at: Utc::now(),
        disks: vec![DiskRow { name: "data".to_owned(), size_bytes: 4096 }],
        warning: None,
    })
}

pub(super) fn point(machine: MachineId, step: &ClaimedStep) -> NewPoint {
    NewPoint {
        id: PointId::generate(),
        machine,
        seq: i64::from(rand::random::<u32>()),
        hash: [0; 32],
        created_at: Utc::now(),
        consistency: Consistency::FileSystem,
        step: step.step,
        attempt: step.attempt,
        disks: vec![PointDiskRow {
            name: "data".to_owned(),
            size_bytes: 4096,
            read_bytes: 4096,
            changed_bytes: 4096,
            sent_bytes: 100,
            stored_bytes: 200,
        }],
    }
}

pub(super) fn commit_of(seq: i64) -> NewCommit {
    NewCommit { seq, base: None }
}

pub(super) async fn claim_one(store: &Store, controller: Uuid) -> Option<ClaimedStep> {
    let mut claimed = store.claim_steps(controller, 10, LEASE, 1000).await.unwrap();
    assert!(claimed.len() <= 1, "{claimed:?}");
    claimed.pop()
}

#[tokio::test]
async fn a_lost_attempt_is_fenced_and_the_next_one_counts() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    let second = queue(&store, machine).await;
    let first = claim_one(&store, controller).await.unwrap();
    assert_eq!((first.kind, first.attempt), (StepKind::TakeSnapshot, 1));
    assert!(claim_one(&store, controller).await.is_none(), "one job per machine");
    assert!(claim_one(&store, Uuid::new_v4()).await.is_none(), "only for sessions held here");

    let key = AttemptKey { step: first.step, attempt: 1, machine: Some(machine) };
    store.end_attempt(key, AttemptEnd::Lost, NOW).await.unwrap();
    let again = claim_one(&store, controller).await.unwrap();
    assert_eq!((again.step, again.attempt), (first.step, 2));
    assert_eq!(
        store.end_attempt(key, taken(), NOW).await.unwrap(),
        Recorded::Stale,
        "the late first attempt"
    );
    let key = AttemptKey { attempt: 2, ..key };
    assert_eq!(store.end_attempt(key, taken(), NOW).await.unwrap(), Recorded::Yes);
    assert_eq!(store.end_attempt(key, taken(), NOW).await.unwrap(), Recorded::Yes, "the same fact again");

    // A commit that began is not lost by its lease, and a cancel comes too late for it.
    let transfer = claim_one(&store, controller).await.unwrap();
    store.begin_commit(transfer.step, 1, commit_of(7), NOW).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(store.expired_leases().await.unwrap().is_empty());
    assert_eq!(store.unsettled_commits().await.unwrap().len(), 1);
    store.request_cancel(job, "test").await.unwrap();
    assert!(store.attempts_to_stop(controller).await.unwrap().is_empty());
    let key = AttemptKey { step: transfer.step, attempt: 1, machine: Some(machine) };
    assert_eq!(store.end_attempt(key, AttemptEnd::Cancelled, NOW).await.unwrap(), Recorded::Yes);
    store.record_point(point(machine, &transfer), NOW).await.unwrap();
    let release = claim_one(&store, controller).await.unwrap();
    assert!(finish(&store, &release).await);
    let row = store.find_job(job).await.unwrap();
    assert_eq!(row.state, JobState::Succeeded, "the point won against the cancel");
    assert!(row.point_id.is_some());

    store.request_cancel(second, "test").await.unwrap();
    assert_eq!(store.find_job(second).await.unwrap().state, JobState::Cancelled);
    assert!(claim_one(&store, controller).await.is_none());
}

#[tokio::test]
async fn a_step_that_is_tried_again_tells_why() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let (machine, _) = machines(&store, controller, 1).await[0];
    let job = queue(&store, machine).await;
    let step = claim_one(&store, controller).await.unwrap();
    let first = async || store.find_job(job).await.unwrap().steps.0.remove(0);
    assert!(first().await.error.is_none());
    let key = AttemptKey { step: step.step, attempt: 1, machine: Some(machine) };
    let why = JobError { retryable: true, ..JobError::expired() };
    store.end_attempt(key, AttemptEnd::Failed(why.clone()), NOW).await.unwrap();
    let waiting = first().await;
    assert_eq!((waiting.state, waiting.error.as_ref()), (StepState::Pending, Some(&why)));
    let again = claim_one(&store, controller).await.unwrap();
    assert_eq!((again.attempt, first().await.error), (2, Some(why)), "until it is done");
    assert!(!finish(&store, &again).await, "the job goes on");
    assert!(first().await.error.is_none());
}

#[tokio::test]
async fn a_report_about_another_machine_is_refused() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let both = machines(&store, controller, 2).await;
    queue(&store, both[0].0).await;
    let step = claim_one(&store, controller).await.unwrap();
    let key = AttemptKey { step: step.step, attempt: 1, machine: Some(both[1].0) };
    let refused = store.end_attempt(key, taken(), NOW).await;
    assert!(matches!(refused, Err(StoreError::ForeignStep)), "{refused:?}");
    let refused = store.authorise_transfer(both[1].1, step.step, 1).await;
    assert!(matches!(refused, Err(StoreError::ForeignStep)), "{refused:?}");
    assert_eq!(store.find_job(queue(&store, both[1].0).await).await.unwrap().state, JobState::Queued);
}

#[tokio::test]
async fn transfers_go_by_the_nearest_deadline_and_never_more_than_are_allowed() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let all = machines(&store, controller, 6).await;
    let mut jobs = Vec::new();
    for (machine, _) in &all {
        jobs.push(queue(&store, *machine).await);
    }
    for (number, job) in (1_i32..).zip([jobs[3], jobs[1], jobs[5], jobs[0], jobs[4], jobs[2]]) {
        sqlx::query("UPDATE jobs SET deadline = now() + $2 * interval '1 hour' WHERE id = $1")
            .bind(job.0)
            .bind(number)
            .execute(&store.pool)
            .await
            .unwrap();
    }
    let snapshots = store.claim_steps(controller, 100, LEASE, 2).await.unwrap();
    assert_eq!(snapshots.len(), 6, "snapshots do not wait for transfers");
    for step in &snapshots {
        assert!(!finish(&store, step).await);
    }
    let mut order = Vec::new();
    let mut running = store.claim_steps(controller, 100, LEASE, 2).await.unwrap();
    while !running.is_empty() {
        let transfers = running.iter().filter(|step| step.kind == StepKind::TransferData).count();
        assert!(transfers <= 2, "{running:?}");
        assert!(store.claim_steps(controller, 100, LEASE, 2).await.unwrap().is_empty(), "no room");
        for step in running {
            if step.kind == StepKind::TransferData {
                order.push(all.iter().position(|(_, agent)| *agent == step.agent).unwrap());
            }
            finish(&store, &step).await;
        }
        running = store.claim_steps(controller, 100, LEASE, 2).await.unwrap();
    }
    for pair in order.chunks_mut(2) {
        pair.sort_unstable();
    }
    assert_eq!(order, [1, 3, 0, 5, 2, 4], "two at a time");
}

#[tokio::test]
async fn a_step_that_cannot_be_read_keeps_no_other_one_waiting() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let both = machines(&store, controller, 2).await;
    let [strange, other] = [queue(&store, both[0].0).await, queue(&store, both[1].0).await];
    sqlx::raw_sql("ALTER TABLE jobs DROP CONSTRAINT jobs_minimum_consistency_check")
        .execute(&store.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE jobs SET minimum_consistency = 'quantum' WHERE id = $1")
        .bind(strange.0)
        .execute(&store.pool)
        .await
        .unwrap();
    assert_eq!(claim_one(&store, controller).await.unwrap().agent, both[1].1);
    let state = async |job| store.find_job(job).await.unwrap().state;
    assert_eq!((state(strange).await, state(other).await), (JobState::Running, JobState::Running));
    assert!(claim_one(&store, controller).await.is_none());
}
