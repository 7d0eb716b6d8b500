use sqlx::types::Json;

use crate::domain::policy::{Policy, PolicyDocument, ScheduleDocument, UnreadablePolicy};

use crate::store::policy::NewPolicy;
use crate::store::tests;

use super::*;

fn at(minute: u32) -> DateTime<Utc> {
    format!("2026-03-01T02:{minute:02}:00Z").parse().unwrap()
}

fn machine(name: &str, labels: &[(&str, &str)], labelled_at: DateTime<Utc>) -> FleetRow {
    FleetRow {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        labels: Json(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        labelled_at,
        quarantine: None,
        has_agent: true,
        online: true,
        last_seen_at: None,
        last_point_at: None,
        served_until: None,
    }
}

fn policy(name: &str, label: (&str, &str)) -> Policy {
    let document = PolicyDocument {
        selector: [(label.0.to_owned(), label.1.to_owned())].into(),
        schedule: ScheduleDocument { every: "10m".to_owned(), ..ScheduleDocument::default() },
        ..PolicyDocument::default()
    }
    .with_defaults();
    Policy {
        id: Uuid::new_v4(),
        name: name.to_owned(),
        revision: 1,
        created_at: at(0),
        updated_at: at(0),
        wanted_since: at(0),
        evaluated_until: at(0),
        spec: document.check(name).unwrap(),
        document,
    }
}

#[test]
fn a_machine_under_no_policy_under_two_quarantined_or_without_an_agent_is_left_out() {
    let readable = vec![policy("prod", ("env", "prod")), policy("db", ("role", "db"))];
    let mut policies = Policies { readable, unreadable: Vec::new(), now: at(1) };
    let mut fleet = [
        machine("web", &[("env", "prod")], at(0)),
        machine("tie", &[("env", "prod"), ("role", "db")], at(0)),
        machine("none", &[], at(0)),
        machine("clone", &[("role", "db")], at(0)),
        machine("found", &[("role", "db")], at(0)),
    ];
    fleet[3].quarantine = Some("two of them".to_owned());
    fleet[4].has_agent = false;
    let names = |policies: &Policies| {
        let bound = bound(&fleet, policies);
        let of = |policy: &Policy| {
            bound.get(&policy.id).map(|all| all.iter().map(|one| one.name.clone()).collect())
        };
        policies.readable.iter().map(|policy| of(policy).unwrap_or_default()).collect::<Vec<Vec<String>>>()
    };
    assert_eq!(names(&policies), [vec!["web"], vec![]]);
    // One of a newer version that is for it, or for nobody knows what.
    policies.unreadable = vec![UnreadablePolicy { name: "new".to_owned(), target: None }];
    assert_eq!(names(&policies), [vec!["web"], vec![]]);
    policies.unreadable[0].target = Some(policies.readable[0].spec.target.clone());
    assert_eq!(names(&policies), [vec![""; 0], vec![]]);
}

#[test]
fn a_machine_that_came_after_the_slot_waits_for_the_next_one() {
    let (slot, now) = (at(10), at(15));
    let labelled = |at| was_bound_at(&machine("web", &[], at), slot, now);
    assert!(labelled(at(9)));
    assert!(!labelled(slot), "labels of the same instant may be newer than the slot");
    assert!(!labelled(at(12)));
    assert!(!labelled(now + TimeDelta::seconds(2)), "between two reads");
    assert!(labelled(now + TimeDelta::days(365)), "a clock that was a year ahead blocks nothing");
}

#[tokio::test]
async fn a_policy_whose_slot_fails_stops_no_other_one() {
    let Some(store) = tests::store().await else { return };
    tests::machines(&store, Uuid::new_v4(), 1).await;
    for (name, key) in [("a-first", "env"), ("b-second", "role")] {
        let document = policy(name, (key, "test")).document;
        let new = NewPolicy { name: name.to_owned(), document, etag: None, operator: "test".to_owned() };
        store.apply_policy(new).await.unwrap();
    }
    tests::execute(
        &store,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.policy_name = 'a-first')
             EXECUTE FUNCTION refuse();
         UPDATE machines SET labelled_at = now() - interval '1 day';
         UPDATE policies SET evaluated_until = now() - interval '1 hour'",
    )
    .await;
    assert!(queue_due(&store).await.unwrap());
    let (policies, now) = store.policies().await.unwrap();
    let due: Vec<&str> =
        policies.iter().filter(|one| one.due(now).is_some()).map(|one| one.name.as_str()).collect();
    assert_eq!(due, ["a-first"], "the second one's slot is done, the first one's will be tried again");
}
