use super::*;

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-03-{text}:00Z").parse().unwrap()
}

/// Every day at two, complete within four hours.
fn daily(wanted_since: &str, evaluated_until: &str) -> Policy {
    let document = PolicyDocument {
        machines: vec!["web1".to_owned()],
        schedule: ScheduleDocument { cron: "0 2 * * *".to_owned(), ..ScheduleDocument::default() },
        complete_within: "4h".to_owned(),
        ..PolicyDocument::default()
    }
    .with_defaults();
    Policy {
        id: Uuid::from_u128(0xabc),
        name: "daily".to_owned(),
        revision: 12,
        created_at: at("01T00:00"),
        updated_at: at("09T00:00"),
        wanted_since: at(wanted_since),
        evaluated_until: at(evaluated_until),
        spec: document.check("daily").unwrap(),
        document,
    }
}

#[test]
fn the_newest_slot_since_the_last_look_is_due() {
    let policy = daily("01T00:00", "03T02:00");
    assert_eq!(policy.due(at("04T01:59")), None, "the slot of the third had its jobs");
    assert_eq!(policy.due(at("04T02:00")), Some(at("04T02:00")));
    assert_eq!(policy.due(at("07T12:00")), Some(at("07T02:00")), "of those that were missed the newest");
}

#[test]
fn a_clock_that_went_back_is_noticed() {
    let policy = daily("01T00:00", "03T02:00");
    assert!(policy.is_ahead_of(at("03T01:59")));
    assert!(!policy.is_ahead_of(at("03T02:00")));
    assert!(!policy.is_ahead_of(at("03T02:01")));
}

#[test]
fn an_objective_counts_from_when_it_was_wanted_first_of_the_machine() {
    let policy = daily("03T02:00", "03T02:00");
    let objective = |since, now| policy.newest_due_objective(at(since), at(now));
    assert_eq!(objective("01T00:00", "03T07:00"), None, "the slot of the third was that of another policy");
    assert_eq!(objective("01T00:00", "04T05:59"), None, "it has until six");
    assert_eq!(objective("01T00:00", "04T06:00"), Some(at("04T02:00")));
    assert_eq!(objective("04T02:00", "04T06:00"), None, "the machine came with the slot");
    assert_eq!(objective("04T02:00", "05T06:00"), Some(at("05T02:00")));
}

#[test]
fn an_etag_changes_with_each_revision_and_each_policy() {
    let policy = daily("01T00:00", "01T00:00");
    assert_eq!(policy.etag(), "00000000000000000000000000000abc-12");
    assert_eq!(policy.etag(), etag(policy.id, 12));
    assert_ne!(policy.etag(), etag(policy.id, 13));
    assert_ne!(policy.etag(), etag(Uuid::from_u128(0xabd), 12));
}
