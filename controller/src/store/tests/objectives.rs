use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::condition::protection;
use crate::domain::job::StepKind;
use crate::domain::policy::{PolicyDocument, RetentionDocument, ScheduleDocument};
use crate::store::Store;
use crate::store::attempt::{AttemptEnd, AttemptKey};
use crate::store::backup::NewBackup;
use crate::store::machine::LabelChange;
use crate::store::policy::NewPolicy;

use super::claims::{claim_one, point, taken};
use super::{MachineId, asked_for, execute, machines, queue, store};

const NOW: Duration = Duration::ZERO;

/// Runs the machine's job up to its point, which is made at `created_at`.
async fn back_up(store: &Store, controller: Uuid, machine: MachineId, created_at: DateTime<Utc>) {
    while let Some(step) = claim_one(store, controller).await {
        let key = AttemptKey { step: step.step, attempt: step.attempt, machine: None };
        let end = match step.kind {
            StepKind::TakeSnapshot => taken(),
            StepKind::TransferData => {
                let mut new = point(machine, &step);
                new.created_at = created_at;
                store.record_point(new, NOW).await.unwrap();
                continue;
            }
            StepKind::ReleaseSnapshot => AttemptEnd::Released,
        };
        store.end_attempt(key, end, NOW).await.unwrap();
    }
}

#[tokio::test]
async fn a_point_that_came_late_serves_its_own_slot_and_not_the_next_one() {
    let Some(store) = store().await else { return };
    let controller = Uuid::new_v4();
    let machine = machines(&store, controller, 1).await[0].0;
    let document = PolicyDocument {
        selector: [("env".to_owned(), "test".to_owned())].into(),
        schedule: ScheduleDocument { every: "1h".to_owned(), ..ScheduleDocument::default() },
        complete_within: "5m".to_owned(),
        ..PolicyDocument::default()
    }
    .with_defaults();
    let new = NewPolicy { name: "hourly".to_owned(), document, etag: None, operator: "test".to_owned() };
    store.apply_policy(new).await.unwrap();
    execute(
        &store,
        "UPDATE machines SET labelled_at = now() - interval '1 day';
         UPDATE policies SET evaluated_until = now() - interval '2 hours', wanted_since = now() - interval '1 day'",
    )
    .await;
    let (policies, now) = store.policies().await.unwrap();
    let slot = policies[0].due(now).unwrap();
    let next = slot + TimeDelta::hours(1);
    store.schedule(policies[0].clone(), slot, vec![machine]).await.unwrap().unwrap();
    // It takes until after the next slot.
    back_up(&store, controller, machine, next + TimeDelta::minutes(2)).await;

    let codes = async |at: DateTime<Utc>| {
        let fleet = store.fleet().await.unwrap();
        let protection = protection(&fleet[0].view(), &policies, at);
        protection.conditions.iter().map(|condition| condition.code).collect::<Vec<_>>()
    };
    assert_eq!(store.fleet().await.unwrap()[0].served_until, Some(slot));
    assert_eq!(codes(next + TimeDelta::minutes(4)).await, [""; 0], "the next one has its time");
    assert_eq!(codes(next + TimeDelta::minutes(6)).await, ["objective_missed"]);
    // One of some disks that an operator asked for serves none: the policy wants all.
    let some = NewBackup { disk_names: vec!["data".to_owned()], ..asked_for(machine) };
    store.create_backup(some).await.unwrap();
    back_up(&store, controller, machine, next + TimeDelta::minutes(7)).await;
    assert_eq!(store.fleet().await.unwrap()[0].served_until, Some(slot));
    let shown = store.find_machine(&machine.to_string()).await.unwrap();
    assert_eq!(shown.facts.served_until, Some(slot));
    // One of all serves every slot before it began.
    queue(&store, machine).await;
    back_up(&store, controller, machine, next + TimeDelta::minutes(7)).await;
    let served = store.fleet().await.unwrap()[0].served_until.unwrap();
    assert!(served > slot && served <= store.policies().await.unwrap().1, "{served}");
    // If it wants that one alone, it does.
    execute(
        &store,
        "UPDATE points SET is_whole = false; UPDATE policies SET spec = spec || '{\"disks\": [\"data\"]}'",
    )
    .await;
    assert_eq!(store.fleet().await.unwrap()[0].served_until, None);
    let policy = policies[0].clone();
    let some = NewBackup { disk_names: vec!["data".to_owned()], policy: Some(policy), ..asked_for(machine) };
    store.create_backup(some).await.unwrap();
    back_up(&store, controller, machine, next + TimeDelta::minutes(8)).await;
    assert!(store.fleet().await.unwrap()[0].served_until.unwrap() >= served);
}

#[tokio::test]
async fn a_change_of_what_no_slot_depends_on_excuses_no_missing_backup() {
    let Some(store) = store().await else { return };
    let machine = machines(&store, Uuid::new_v4(), 1).await[0].0;
    let apply = async |every: &str, last: u32| {
        let document = PolicyDocument {
            selector: [("env".to_owned(), "test".to_owned())].into(),
            schedule: ScheduleDocument { every: every.to_owned(), ..ScheduleDocument::default() },
            retention: RetentionDocument { last, ..RetentionDocument::default() },
            complete_within: "5m".to_owned(),
            ..PolicyDocument::default()
        }
        .with_defaults();
        let new = NewPolicy { name: "hourly".to_owned(), document, etag: None, operator: "test".to_owned() };
        store.apply_policy(new).await.unwrap();
    };
    let label = async |key: &str, value: &str| {
        let set = [(key.to_owned(), value.to_owned())].into();
        store.label_machine(machine, LabelChange { set, remove: Vec::new() }, "test").await.unwrap();
    };
    let codes = async || {
        let (policies, now) = store.policies().await.unwrap();
        let protection = protection(&store.fleet().await.unwrap()[0].view(), &policies, now);
        protection.conditions.into_iter().map(|condition| condition.code).collect::<Vec<_>>()
    };
    let a_day_ago = "UPDATE machines SET labelled_at = now() - interval '1 day';
         UPDATE policies SET wanted_since = now() - interval '1 day', evaluated_until = now() - interval '2 hours'";
    apply("1h", 1).await;
    assert_eq!(codes().await, [""; 0], "no slot was wanted yet");
    execute(&store, a_day_ago).await;
    assert_eq!(codes().await, ["objective_missed"]);
    apply("1h", 7).await;
    label("kernel", "6.1").await;
    assert_eq!(codes().await, ["objective_missed"], "neither says when a backup of which machine is wanted");
    let (policies, now) = store.policies().await.unwrap();
    assert!(policies[0].due(now).is_some(), "nor is the slot another one's");

    apply("2h", 7).await;
    assert_eq!(codes().await, [""; 0], "another schedule has other slots");
    execute(&store, a_day_ago).await;
    label("env", "prod").await;
    assert_eq!(codes().await, ["unprotected"]);
    label("env", "test").await;
    assert_eq!(codes().await, [""; 0], "it came back after the slot");
}
