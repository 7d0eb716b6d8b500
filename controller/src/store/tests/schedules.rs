use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::policy::{Policy, PolicyDocument, ScheduleDocument};
use crate::store::backup::{Begun, NewBackup};
use crate::store::page::PageSize;
use crate::store::policy::{Applied, NewPolicy};
use crate::store::{Store, StoreError};

use super::claims::claim_one;
use super::{MachineId, asked_for, execute, machines, queue, store};

fn document(every: &str) -> PolicyDocument {
    PolicyDocument {
        selector: [("env".to_owned(), "test".to_owned())].into(),
        schedule: ScheduleDocument { every: every.to_owned(), ..ScheduleDocument::default() },
        ..PolicyDocument::default()
    }
    .with_defaults()
}

async fn apply(store: &Store, name: &str, every: &str, etag: Option<String>) -> Result<Applied, StoreError> {
    let operator = "test".to_owned();
    store.apply_policy(NewPolicy { name: name.to_owned(), document: document(every), etag, operator }).await
}

/// As if the policy had been evaluated last so long ago.
async fn evaluated(store: &Store, name: &str, ago: TimeDelta) -> Policy {
    sqlx::query("UPDATE policies SET evaluated_until = now() - $2 WHERE name = $1")
        .bind(name)
        .bind(ago)
        .execute(&store.pool)
        .await
        .unwrap();
    store.find_policy(name).await.unwrap()
}

async fn states(store: &Store) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state")
        .fetch_all(&store.pool)
        .await
        .unwrap()
}

/// One look at the schedules, as the task does it.
async fn look(store: &Store, machines: &[MachineId]) -> Option<(DateTime<Utc>, Begun)> {
    let (policies, now) = store.policies().await.unwrap();
    let policy = policies.into_iter().next().unwrap();
    let slot = policy.due(now)?;
    store.schedule(policy, slot, machines.to_vec()).await.unwrap().map(|scheduled| (slot, scheduled))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_controllers_look_a_slot_makes_one_job_per_machine() {
    let Some(store) = store().await else { return };
    let ids: Vec<MachineId> =
        machines(&store, Uuid::new_v4(), 200).await.into_iter().map(|(machine, _)| machine).collect();
    apply(&store, "hourly", "1h", None).await.unwrap();
    // Three days of downtime: only the newest of 72 slots runs.
    evaluated(&store, "hourly", TimeDelta::days(3)).await;
    let lookers: Vec<_> = (0..8)
        .map(|_| {
            let (store, ids) = (store.clone(), ids.clone());
            tokio::spawn(async move { look(&store, &ids).await })
        })
        .collect();
    let mut winners = Vec::new();
    for looker in lookers {
        winners.extend(looker.await.unwrap());
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(winners[0].1, Begun { queued: 200, overlapped: 0 });
    assert_eq!(states(&store).await, [("queued".to_owned(), 200)]);
    assert!(look(&store, &ids).await.is_none(), "the slot is over");
    let odd: (i64,) = sqlx::query_as(
        "SELECT count(*) FROM jobs WHERE deadline <> slot + interval '24 hours' OR expires_at < now() + interval '23 hours'",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!(
        odd,
        (0,),
        "the deadline counts from the slot, the time to start from the end of the downtime"
    );

    // The next slot finds the jobs of this one still waiting.
    sqlx::query("UPDATE jobs SET slot = slot - interval '1 hour'").execute(&store.pool).await.unwrap();
    evaluated(&store, "hourly", TimeDelta::hours(1)).await;
    let (_, scheduled) = look(&store, &ids).await.unwrap();
    assert_eq!(scheduled, Begun { queued: 0, overlapped: 200 });
    assert_eq!(states(&store).await, [("expired".to_owned(), 200), ("queued".to_owned(), 200)]);
    let odd: (i64,) = sqlx::query_as(
        "SELECT count(*) FROM jobs j JOIN steps s ON s.job_id = j.id
         WHERE j.state = 'expired' AND (s.state <> 'skipped' OR j.error->>'code' <> 'overlap' OR j.ended_at IS NULL)",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!(odd, (0,));
}

#[tokio::test]
async fn a_clock_that_goes_back_doubles_nothing_and_one_that_was_far_ahead_blocks_nothing() {
    let Some(store) = store().await else { return };
    let ids: Vec<MachineId> =
        machines(&store, Uuid::new_v4(), 1).await.into_iter().map(|(machine, _)| machine).collect();
    apply(&store, "hourly", "1h", None).await.unwrap();
    evaluated(&store, "hourly", TimeDelta::hours(1)).await;
    let (slot, _) = look(&store, &ids).await.unwrap();
    // The clock went back behind the slot, and comes to it once more.
    let policy = evaluated(&store, "hourly", TimeDelta::hours(1)).await;
    assert_eq!(
        store.schedule(policy, slot, ids.clone()).await.unwrap(),
        Some(Begun { queued: 0, overlapped: 0 })
    );
    assert_eq!(states(&store).await, [("queued".to_owned(), 1)]);
    // A year ahead, and back.
    let policy = evaluated(&store, "hourly", TimeDelta::days(-365)).await;
    let (_, now) = store.policies().await.unwrap();
    assert!(policy.is_ahead_of(now) && policy.due(now + TimeDelta::hours(1)).is_none());
    store.restart_schedule(&policy).await.unwrap();
    let policy = store.find_policy("hourly").await.unwrap();
    assert!(policy.due(now + TimeDelta::hours(1)).is_some(), "it goes on");
}

#[tokio::test]
async fn what_a_clock_that_was_ahead_made_wait_waits_no_longer_once_it_is_right() {
    // The shorter one is not much longer than a step may wait.
    for ahead in ["8 hours", "20 minutes"] {
        let Some(store) = store().await else { return };
        apply(&store, "p", "1h", None).await.unwrap();
        let controller = Uuid::new_v4();
        let made = machines(&store, controller, 2).await;
        queue(&store, made[0].0).await;
        let claimed = claim_one(&store, controller).await.unwrap();
        let queued = queue(&store, made[1].0).await;
        execute(
        &store,
        format!(
            "UPDATE jobs SET created_at = created_at + interval '{ahead}', run_at = run_at + interval '{ahead}',
                 expires_at = expires_at + interval '{ahead}', deadline = deadline + interval '{ahead}',
                 policy_id = (SELECT id FROM policies), slot = now() + interval '{ahead}';
             UPDATE steps SET ready_at = ready_at + interval '{ahead}', lease_until = lease_until + interval '{ahead}',
                 progressed_at = progressed_at + interval '{ahead}';
             UPDATE machines SET labelled_at = now() + interval '{ahead}' WHERE id = '{}'",
            made[0].0.0
        ).leak(),
    )
    .await;
        assert!(claim_one(&store, controller).await.is_none());
        let minute = Duration::from_secs(60);
        let undone = store.undo_leap(minute * 16, minute).await.unwrap();
        assert_eq!(undone, 4, "a wait, a lease, a job and labels, {ahead}");
        assert_eq!(store.undo_leap(minute * 16, minute).await.unwrap(), 0);
        let right: (bool, bool) = sqlx::query_as(
        "SELECT (SELECT lease_until <= now() + interval '1 minute' AND progressed_at <= now() FROM steps WHERE id = $1),
                (SELECT created_at <= now() AND expires_at = created_at + interval '24 hours' AND deadline <= expires_at AND slot IS NULL
                 FROM jobs WHERE id = $2)",
    )
    .bind(claimed.step.0)
    .bind(queued.0)
    .fetch_one(&store.pool)
    .await
    .unwrap();
        assert_eq!(right, (true, true));
        assert_eq!(claim_one(&store, controller).await.unwrap().agent, made[1].1);
    }
}

#[tokio::test]
async fn a_new_or_changed_policy_waits_for_its_next_slot() {
    let Some(store) = store().await else { return };
    assert_eq!(apply(&store, "p", "1h", None).await.unwrap(), Applied::Created);
    let (policies, now) = store.policies().await.unwrap();
    assert!(policies[0].due(now).is_none());
    evaluated(&store, "p", TimeDelta::days(9)).await;
    assert_eq!(apply(&store, "p", "1h", None).await.unwrap(), Applied::Unchanged);
    let (policies, now) = store.policies().await.unwrap();
    assert!(policies[0].due(now).is_some(), "what is the same already changes nothing");
    assert_eq!(apply(&store, "p", "30m", None).await.unwrap(), Applied::Updated);
    let (policies, now) = store.policies().await.unwrap();
    assert!(policies[0].due(now).is_none());
    assert_eq!(policies[0].revision, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_who_change_a_policy_they_both_read_one_is_told() {
    let Some(store) = store().await else { return };
    apply(&store, "p", "1h", None).await.unwrap();
    let etag = store.find_policy("p").await.unwrap().etag();
    let both = ["2h", "3h"].map(|every| {
        let (store, etag) = (store.clone(), etag.clone());
        tokio::spawn(async move { apply(&store, "p", every, Some(etag)).await })
    });
    let mut outcomes = Vec::new();
    for one in both {
        outcomes.push(one.await.unwrap());
    }
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(Applied::Updated))).count(), 1);
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::PolicyChanged { .. }))));
    let stale = store.delete_policy("p", Some(etag), "test").await;
    assert!(matches!(stale, Err(StoreError::PolicyChanged { .. })));
    store.delete_policy("p", None, "test").await.unwrap();
    assert!(matches!(store.find_policy("p").await, Err(StoreError::NotFound { .. })));
    assert!(matches!(
        apply(&store, "p", "1h", Some("x".to_owned())).await,
        Err(StoreError::PolicyChanged { .. })
    ));
}

#[tokio::test]
async fn whoever_repeats_a_change_whose_answer_was_lost_is_told_that_it_is_so() {
    let Some(store) = store().await else { return };
    apply(&store, "p", "1h", None).await.unwrap();
    let etag = store.find_policy("p").await.unwrap().etag();
    assert_eq!(apply(&store, "p", "2h", Some(etag.clone())).await.unwrap(), Applied::Updated);
    assert_eq!(apply(&store, "p", "2h", Some(etag.clone())).await.unwrap(), Applied::Unchanged);
    let stale = apply(&store, "p", "3h", Some(etag)).await;
    assert!(matches!(stale, Err(StoreError::PolicyChanged { .. })), "{stale:?}");
    assert_eq!(store.find_policy("p").await.unwrap().revision, 2);
}

#[tokio::test]
async fn a_policy_of_a_newer_version_does_not_stop_the_others() {
    let Some(store) = store().await else { return };
    apply(&store, "new", "1h", None).await.unwrap();
    apply(&store, "old", "1h", None).await.unwrap();
    sqlx::query("UPDATE policies SET spec = spec || '{\"weather\": \"fine\"}' WHERE name = 'new'")
        .execute(&store.pool)
        .await
        .unwrap();
    let (policies, _) = store.policies().await.unwrap();
    assert_eq!(policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["old"]);
    let [unreadable] = store.all_policies().await.unwrap().unreadable.try_into().unwrap();
    assert_eq!(
        (unreadable.name.as_str(), unreadable.target.as_ref()),
        ("new", Some(&policies[0].spec.target))
    );
    assert!(matches!(store.find_policy("new").await, Err(StoreError::Corrupt { .. })));
    for (after, listed, named) in [(None, vec![], vec!["new"]), (Some("new"), vec!["old"], vec![])] {
        let (page, unreadable) = store.list_policies(after, PageSize::new(1).unwrap()).await.unwrap();
        let names: Vec<&str> = page.rows.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!((names, page.next.is_empty()), (listed, after.is_some()));
        assert_eq!(unreadable, named);
    }
    store.delete_policy("new", None, "test").await.unwrap();
    assert!(matches!(store.find_policy("new").await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn ten_thousand_machines_are_due_at_once() {
    let Some(store) = store().await else { return };
    sqlx::query(
        "WITH m AS (INSERT INTO machines (id, name, labels)
                    SELECT gen_random_uuid(), 'm' || g, '{\"env\": \"test\"}' FROM generate_series(1, 10000) g RETURNING id),
              a AS (INSERT INTO agents (id, machine_id) SELECT gen_random_uuid(), id FROM m)
         INSERT INTO machine_slots (machine_id) SELECT id FROM m",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    apply(&store, "hourly", "1h", None).await.unwrap();
    evaluated(&store, "hourly", TimeDelta::hours(1)).await;
    let start = Instant::now();
    let ids: Vec<MachineId> =
        store.fleet().await.unwrap().into_iter().map(|machine| MachineId(machine.id)).collect();
    let (_, scheduled) = look(&store, &ids).await.unwrap();
    eprintln!("10,000 machines: {:?}", start.elapsed());
    assert_eq!(scheduled, Begun { queued: 10_000, overlapped: 0 });
    // No figure of speed is asserted; but it must not take longer than the schedule's finest period, by far.
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_backup_of_some_disks_takes_no_slots_place() {
    let Some(store) = store().await else { return };
    let machine = machines(&store, Uuid::new_v4(), 1).await[0].0;
    apply(&store, "hourly", "1h", None).await.unwrap();
    let all = document("1h");
    let only_data = PolicyDocument { disks: vec!["data".to_owned()], ..all.clone() };
    let ask_for = async |disks: &[&str]| {
        let policy = store.find_policy("hourly").await.unwrap();
        let disk_names = disks.iter().map(|disk| (*disk).to_owned()).collect();
        let new = NewBackup { disk_names, policy: Some(policy), ..asked_for(machine) };
        store.create_backup(new).await.unwrap()
    };
    let queued_and_overlapped = async |document: &PolicyDocument, disks: &[&str], state: &str| {
        let new = NewPolicy {
            name: "hourly".to_owned(),
            document: document.clone(),
            etag: None,
            operator: "test".to_owned(),
        };
        store.apply_policy(new).await.unwrap();
        sqlx::query("DELETE FROM jobs").execute(&store.pool).await.unwrap();
        let job = ask_for(disks).await;
        sqlx::query("UPDATE jobs SET state = $2 WHERE id = $1")
            .bind(job.0)
            .bind(state)
            .execute(&store.pool)
            .await
            .unwrap();
        evaluated(&store, "hourly", TimeDelta::hours(1)).await;
        let (_, scheduled) = look(&store, &[machine]).await.unwrap();
        (scheduled.queued, scheduled.overlapped)
    };
    for state in ["queued", "running"] {
        assert_eq!(queued_and_overlapped(&all, &["data"], state).await, (1, 0));
        assert_eq!(queued_and_overlapped(&all, &[], state).await, (0, 1));
        assert_eq!(queued_and_overlapped(&only_data, &["data"], state).await, (0, 1));
        assert_eq!(queued_and_overlapped(&only_data, &[], state).await, (0, 1), "all of them has it, too");
    }
}

/// Both ways in which a backup begins: by a schedule, and by hand.
#[tokio::test]
async fn what_may_be_backed_up_does_not_depend_on_who_wants_it() {
    let Some(store) = store().await else { return };
    apply(&store, "hourly", "1h", None).await.unwrap();
    let names_a_disk = PolicyDocument { disks: vec!["gone".to_owned()], ..document("1h") };
    let new = NewPolicy {
        name: "hourly".to_owned(),
        document: names_a_disk,
        etag: None,
        operator: "test".to_owned(),
    };
    store.apply_policy(new).await.unwrap();
    let both = async |machine: MachineId| {
        let policy = evaluated(&store, "hourly", TimeDelta::hours(1)).await;
        let asked = store.create_backup(NewBackup { policy: Some(policy), ..asked_for(machine) }).await;
        // That it is not over would take the slot's place.
        sqlx::query("UPDATE jobs SET state = 'failed', ended_at = now() WHERE slot IS NULL")
            .execute(&store.pool)
            .await
            .unwrap();
        if let Ok(job) = asked {
            let audited: (serde_json::Value,) = sqlx::query_as(
                "SELECT detail -> 'disks' FROM audit WHERE action = 'backup.start' AND subject = $1",
            )
            .bind(job.to_string())
            .fetch_one(&store.pool)
            .await
            .unwrap();
            assert_eq!(audited, (serde_json::json!(["gone"]),), "those of the policy: none were named");
        }
        let (_, begun) = look(&store, &[machine]).await.unwrap();
        let jobs: Vec<(serde_json::Value,)> = sqlx::query_as(
            "SELECT jsonb_build_array(disk_names, minimum_consistency, policy_revision,
                        deadline = coalesce(slot, created_at) + interval '24 hours',
                        (SELECT count(*) FROM steps WHERE job_id = jobs.id))
             FROM jobs WHERE machine_id = $1",
        )
        .bind(machine.0)
        .fetch_all(&store.pool)
        .await
        .unwrap();
        (asked, begun, jobs)
    };
    let controller = Uuid::new_v4();
    let made = machines(&store, controller, 4).await;
    let [(there, _), (offline, agent), (removed, _), (clone, _)] = made[..] else { panic!("{made:?}") };
    store.close_session(agent, 1).await.unwrap();
    for machine in [there, offline] {
        let (asked, begun, jobs) = both(machine).await;
        assert!(asked.is_ok(), "{asked:?}");
        assert_eq!(begun, Begun { queued: 1, overlapped: 0 });
        let job = (serde_json::json!([["gone"], "file_system", 2, true, 3]),);
        assert_eq!(jobs, [job.clone(), job], "a disk that a policy names is the agent's to find, either way");
    }
    store.remove_machine(removed, "test").await.unwrap();
    store.quarantine(clone, "two of them").await.unwrap();
    let (asked, begun, jobs) = both(removed).await;
    assert!(matches!(asked, Err(StoreError::MachineRemoved { .. })), "{asked:?}");
    assert_eq!((begun, jobs.len()), (Begun::default(), 0));
    let (asked, begun, jobs) = both(clone).await;
    assert!(matches!(asked, Err(StoreError::MachineQuarantined { .. })), "{asked:?}");
    assert_eq!((begun, jobs.len()), (Begun::default(), 0));
    sqlx::query("DELETE FROM agents").execute(&store.pool).await.unwrap();
    let (asked, begun, jobs) = both(there).await;
    assert!(matches!(asked, Err(StoreError::NoAgent { .. })), "{asked:?}");
    assert_eq!((begun, jobs.len()), (Begun::default(), 2));
    // Whoever types a name is told at once.
    let typed = NewBackup { disk_names: vec!["gone".to_owned()], ..asked_for(offline) };
    let refused = store.create_backup(typed).await;
    assert!(matches!(refused, Err(StoreError::NoSuchDisk { .. })), "{refused:?}");
}
