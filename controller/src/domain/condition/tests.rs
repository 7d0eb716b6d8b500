use uuid::Uuid;

use super::*;
use crate::domain::policy::{PolicyDocument, ScheduleDocument};

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-03-{text}:00Z").parse().unwrap()
}

fn policy(name: &str, machines: &[&str]) -> Policy {
    let document = PolicyDocument {
        machines: machines.iter().map(|name| (*name).to_owned()).collect(),
        schedule: ScheduleDocument { cron: "0 2 * * *".to_owned(), ..ScheduleDocument::default() },
        complete_within: "4h".to_owned(),
        ..PolicyDocument::default()
    }
    .with_defaults();
    Policy {
        id: Uuid::nil(),
        name: name.to_owned(),
        revision: 1,
        created_at: at("01T00:00"),
        updated_at: at("01T00:00"),
        wanted_since: at("01T00:00"),
        evaluated_until: at("01T00:00"),
        spec: document.check(name).unwrap(),
        document,
    }
}

/// An online machine without a policy that was never backed up.
fn view<'m>(name: &'m str, labels: &'m BTreeMap<String, String>) -> MachineView<'m> {
    MachineView {
        id: Uuid::nil(),
        name,
        labels,
        labelled_at: at("01T00:00"),
        quarantine: None,
        removed_at: None,
        has_agent: true,
        online: true,
        last_seen_at: None,
        served_until: None,
    }
}

/// Codes of a machine that is online, labelled at and served until these times.
fn codes(policies: &[Policy], labelled_at: &str, served_until: Option<&str>, now: &str) -> Vec<&'static str> {
    let labels = BTreeMap::new();
    let machine = MachineView {
        labelled_at: at(labelled_at),
        last_seen_at: Some(at(now)),
        served_until: served_until.map(at),
        ..view("web1", &labels)
    };
    protection(&machine, policies, at(now)).conditions.iter().map(|condition| condition.code).collect()
}

#[test]
fn unprotected_and_conflict() {
    assert_eq!(codes(&[], "01T00:00", None, "05T00:00"), ["unprotected"]);
    assert_eq!(codes(&[policy("a", &["other"])], "01T00:00", None, "05T00:00"), ["unprotected"]);
    let tie = [policy("b", &["web1"]), policy("a", &["web1"])];
    assert_eq!(codes(&tie, "01T00:00", None, "05T00:00"), ["policy_conflict"]);
}

#[test]
fn an_objective_is_missed_once_its_time_is_over_and_not_before() {
    let policies = [policy("daily", &["web1"])];
    let codes = |point, now| codes(&policies, "01T00:00", point, now);
    assert_eq!(codes(Some("04T02:10"), "05T05:59"), [""; 0], "today's backup has until six");
    assert_eq!(codes(Some("04T02:10"), "05T06:00"), ["objective_missed"]);
    assert_eq!(codes(Some("05T02:10"), "05T06:00"), [""; 0]);
    assert_eq!(codes(None, "01T05:00"), [""; 0], "the first slot is not over yet");
    assert_eq!(codes(None, "01T07:00"), ["objective_missed"]);
}

#[test]
fn what_was_wanted_before_the_machine_had_its_labels_is_not_missed() {
    let policies = [policy("daily", &["web1"])];
    assert_eq!(codes(&policies, "05T03:00", None, "05T09:00"), [""; 0]);
    assert_eq!(codes(&policies, "05T03:00", None, "06T06:00"), ["objective_missed"]);
}

#[test]
fn a_protected_machine_that_is_away_and_a_clone() {
    let policies = [policy("daily", &["web1"])];
    let labels = BTreeMap::new();
    let mut machine = MachineView {
        labelled_at: at("05T00:00"),
        online: false,
        last_seen_at: Some(at("05T00:00")),
        ..view("web1", &labels)
    };
    let codes = |machine: &MachineView<'_>, policies: &[Policy], now| {
        let protection = protection(machine, policies, at(now));
        protection.conditions.iter().map(|condition| condition.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&machine, &policies, "05T00:14"), [""; 0]);
    assert_eq!(codes(&machine, &policies, "05T00:15"), ["agent_offline"]);
    assert_eq!(
        codes(&machine, &[], "05T00:15"),
        ["unprotected"],
        "nobody waits for a machine without a policy"
    );
    machine.quarantine = Some("two machines");
    machine.online = true;
    assert_eq!(codes(&machine, &policies, "05T00:15"), ["clone"]);
}

#[test]
fn a_machine_that_was_found_in_the_vault_has_no_agent_and_a_removed_one_wants_nothing() {
    let (policies, labels) = ([policy("daily", &["web1"])], BTreeMap::new());
    let found = MachineView { has_agent: false, online: false, ..view("web1", &labels) };
    let told = protection(&found, &policies, at("09T00:00")).conditions;
    assert_eq!(told.iter().map(|one| one.code).collect::<Vec<_>>(), ["no_agent"]);
    assert!(told[0].action.contains("--machine web1"), "{}", told[0].action);
    let advice = damaged(&found, 1).unwrap().action;
    assert!(!advice.contains("holdfast backup") && advice.contains("check --machine web1"), "{advice}");
    let removed = MachineView { removed_at: Some(at("08T00:00")), ..found };
    let Protection { policy, conditions } = protection(&removed, &policies, at("09T00:00"));
    assert!(policy.is_none() && conditions.is_empty(), "{conditions:?}");
    for has_agent in [false, true] {
        let advice = damaged(&MachineView { has_agent, ..removed.clone() }, 1).unwrap().action;
        let by_id = format!("check --machine {}", removed.id);
        assert!(!advice.contains("holdfast backup") && advice.contains(&by_id), "{advice}");
    }
}

#[test]
fn what_was_not_read_within_the_period_is_overdue() {
    let labels = BTreeMap::new();
    let machine = view("web1", &labels);
    let overdue = |machine: &MachineView<'_>, now| {
        verification_overdue(machine, at("01T00:00"), Duration::from_secs(86_400), at(now))
    };
    assert_eq!(overdue(&machine, "02T00:00"), None);
    let told = overdue(&machine, "02T00:01").unwrap();
    assert_eq!(told.code, "verification_overdue");
    assert!(told.message.contains("2026-03-01T00:00:00Z"), "{}", told.message);
    assert!(told.action.contains("--machine web1"), "{}", told.action);
    let removed = MachineView { removed_at: Some(at("01T00:00")), ..machine };
    let told = overdue(&removed, "02T00:01").unwrap();
    assert!(told.action.contains(&removed.id.to_string()), "{}", told.action);
}

#[test]
fn damaged_points_are_told_with_the_machine_and_none_are_no_condition() {
    let labels = BTreeMap::new();
    let machine = view("web1", &labels);
    assert_eq!(damaged(&machine, 0), None);
    let one = damaged(&machine, 1).unwrap();
    assert_eq!(
        (one.code, one.message.as_str()),
        ("points_damaged", "a point of it is damaged and does not restore")
    );
    let many = damaged(&machine, 3).unwrap();
    assert!(many.message.starts_with("3 points"), "{}", many.message);
    assert!(many.action.contains("holdfast backup web1"), "{}", many.action);
}
