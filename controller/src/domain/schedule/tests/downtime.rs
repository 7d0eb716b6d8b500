use insta::assert_snapshot;

use super::*;

#[test]
fn an_hour() {
    assert_snapshot!(newest(&cron("*/15 * * * *", "Europe/Berlin"), "2026-06-01T10:00:00Z", "2026-06-01T11:07:00Z"), @"Mon 2026-06-01 13:00:00 +02:00 = 01T11:00:00Z");
}

#[test]
fn a_week() {
    assert_snapshot!(newest(&cron("0 2 * * *", "Europe/Berlin"), "2026-06-01T00:00:00Z", "2026-06-08T12:00:00Z"), @"Mon 2026-06-08 02:00:00 +02:00 = 08T00:00:00Z");
}

#[test]
fn a_year() {
    assert_snapshot!(newest(&cron("* * * * *", "Europe/Berlin"), "2025-06-01T00:00:00Z", "2026-06-01T12:34:56Z"), @"Mon 2026-06-01 14:34:00 +02:00 = 01T12:34:00Z");
    assert_snapshot!(newest(&cron("0 2 L * *", "Europe/Berlin"), "2025-06-01T00:00:00Z", "2026-06-15T12:00:00Z"), @"Sun 2026-05-31 02:00:00 +02:00 = 31T00:00:00Z");
    assert_snapshot!(newest(&every("7m"), "2025-06-01T00:00:00Z", "2026-06-01T12:34:56Z"), @"Mon 2026-06-01 12:30:00 +00:00 = 01T12:30:00Z");
}

#[test]
fn too_short_for_a_slot() {
    assert_snapshot!(newest(&cron("0 2 * * *", "UTC"), "2026-06-01T02:00:00Z", "2026-06-02T01:59:59Z"), @"none");
    assert_snapshot!(newest(&every("15m"), "2026-06-01T00:15:00Z", "2026-06-01T00:29:59.999Z"), @"none");
}

#[test]
fn ends_are_open_before_and_closed_behind() {
    assert_snapshot!(newest(&cron("0 2 * * *", "UTC"), "2026-06-01T02:00:00Z", "2026-06-02T02:00:00Z"), @"Tue 2026-06-02 02:00:00 +00:00 = 02T02:00:00Z");
    assert_snapshot!(newest(&cron("0 2 * * *", "UTC"), "2026-06-01T02:00:00Z", "2026-06-01T02:00:00Z"), @"none");
    assert_snapshot!(newest(&every("15m"), "2026-06-01T00:00:00Z", "2026-06-01T00:15:00Z"), @"Mon 2026-06-01 00:15:00 +00:00 = 01T00:15:00Z");
}

#[test]
fn the_clock_jumped_forward() {
    assert_snapshot!(newest(&cron("0 2 * * *", "Europe/Berlin"), "2026-06-01T00:00:00Z", "2031-06-01T00:00:30Z"), @"Sun 2031-06-01 02:00:00 +02:00 = 01T00:00:00Z");
}

#[test]
fn the_clock_jumped_back() {
    assert_snapshot!(newest(&cron("* * * * *", "Europe/Berlin"), "2026-06-01T00:00:00Z", "2026-05-31T23:00:00Z"), @"none");
    assert_snapshot!(newest(&every("10s"), "2026-06-01T00:00:00Z", "2026-05-31T23:00:00Z"), @"none");
    assert_snapshot!(newest(&cron("0 2 * * *", "Europe/Berlin"), "2026-06-01T00:00:00.5Z", "2026-06-01T00:00:00.1Z"), @"none");
}

/// The skipped 02:30 runs at 03:00 summer time, 01:00 UTC.
#[test]
fn down_in_the_spring_night() {
    assert_snapshot!(newest(&cron("30 2 * * *", "Europe/Berlin"), "2026-03-28T12:00:00Z", "2026-03-29T00:59:59Z"), @"none");
    assert_snapshot!(newest(&cron("30 2 * * *", "Europe/Berlin"), "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"), @"Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z");
    assert_snapshot!(newest(&cron("30 2 * * *", "Europe/Berlin"), "2026-03-28T12:00:00Z", "2026-03-29T05:00:00Z"), @"Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z");
}

/// The first 02:30 is 00:30 UTC, the second 01:30.
#[test]
fn down_in_the_autumn_night() {
    assert_snapshot!(newest(&cron("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00:00Z", "2026-10-25T01:10:00Z"), @"Sun 2026-10-25 02:30:00 +02:00 = 25T00:30:00Z");
    assert_snapshot!(newest(&cron("30 2 * * *", "Europe/Berlin"), "2026-10-25T00:30:00Z", "2026-10-25T05:00:00Z"), @"none");
    assert_snapshot!(newest(&cron("*/30 * * * *", "Europe/Berlin"), "2026-10-25T00:30:00Z", "2026-10-25T01:45:00Z"), @"Sun 2026-10-25 02:30:00 +01:00 = 25T01:30:00Z");
}

/// Slot by slot this would be 300 billion steps.
#[test]
fn work_does_not_grow_with_the_gap() {
    let minutely = cron("* * * * *", "Europe/Berlin");
    let (after, until) = (at("1970-01-01T00:00:00Z"), at("2026-06-01T12:34:56Z"));
    for _ in 0..10_000 {
        assert_eq!(minutely.newest_between(after, until), Some(at("2026-06-01T12:34:00Z")));
    }
}
