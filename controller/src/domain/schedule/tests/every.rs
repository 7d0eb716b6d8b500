use insta::assert_snapshot;

use super::*;

#[test]
fn every_15_minutes() {
    assert_snapshot!(calendar(&every("15m"), "2026-06-01T00:07:31Z", 3), @"
    Mon 2026-06-01 00:15:00 +00:00 = 01T00:15:00Z
    Mon 2026-06-01 00:30:00 +00:00 = 01T00:30:00Z
    Mon 2026-06-01 00:45:00 +00:00 = 01T00:45:00Z
    ");
}

#[test]
fn every_10_seconds() {
    assert_snapshot!(calendar(&every("10s"), "2026-06-01T00:00:09.5Z", 3), @"
    Mon 2026-06-01 00:00:10 +00:00 = 01T00:00:10Z
    Mon 2026-06-01 00:00:20 +00:00 = 01T00:00:20Z
    Mon 2026-06-01 00:00:30 +00:00 = 01T00:00:30Z
    ");
}

#[test]
fn every_7_minutes_does_not_start_again_at_midnight() {
    assert_snapshot!(calendar(&every("7m"), "2026-06-01T23:50:00Z", 4), @"
    Mon 2026-06-01 23:56:00 +00:00 = 01T23:56:00Z
    Tue 2026-06-02 00:03:00 +00:00 = 02T00:03:00Z
    Tue 2026-06-02 00:10:00 +00:00 = 02T00:10:00Z
    Tue 2026-06-02 00:17:00 +00:00 = 02T00:17:00Z
    ");
}

#[test]
fn every_90_seconds() {
    assert_snapshot!(calendar(&every("90s"), "2026-06-01T00:00:00Z", 3), @"
    Mon 2026-06-01 00:01:30 +00:00 = 01T00:01:30Z
    Mon 2026-06-01 00:03:00 +00:00 = 01T00:03:00Z
    Mon 2026-06-01 00:04:30 +00:00 = 01T00:04:30Z
    ");
}

#[test]
fn every_hour_and_a_half() {
    assert_snapshot!(calendar(&every("1h30m"), "2026-06-01T00:00:00Z", 3), @"
    Mon 2026-06-01 01:30:00 +00:00 = 01T01:30:00Z
    Mon 2026-06-01 03:00:00 +00:00 = 01T03:00:00Z
    Mon 2026-06-01 04:30:00 +00:00 = 01T04:30:00Z
    ");
}

#[test]
fn every_day_is_midnight_utc() {
    assert_snapshot!(calendar(&every("1d"), "2026-06-01T00:00:00Z", 2), @"
    Tue 2026-06-02 00:00:00 +00:00 = 02T00:00:00Z
    Wed 2026-06-03 00:00:00 +00:00 = 03T00:00:00Z
    ");
}

#[test]
fn every_366_days() {
    assert_snapshot!(calendar(&every("366d"), "2026-06-01T00:00:00Z", 2), @"
    Sat 2027-02-13 00:00:00 +00:00 = 13T00:00:00Z
    Mon 2028-02-14 00:00:00 +00:00 = 14T00:00:00Z
    ");
}

#[test]
fn multiples_go_on_before_the_epoch() {
    assert_snapshot!(calendar(&every("7m"), "1969-12-31T23:50:00Z", 3), @"
    Wed 1969-12-31 23:53:00 +00:00 = 31T23:53:00Z
    Thu 1970-01-01 00:00:00 +00:00 = 01T00:00:00Z
    Thu 1970-01-01 00:07:00 +00:00 = 01T00:07:00Z
    ");
}

#[test]
fn every_unit_in_its_order() {
    let seconds = |text: &str| every(text).next_after(at("1970-01-01T00:00:00Z")).unwrap().timestamp();
    assert_eq!(seconds("1d2h3m4s"), 93_784);
    assert_eq!(seconds("10s"), 10);
    assert_eq!(seconds("366d"), 31_622_400);
    assert_eq!(seconds("00015m"), 900);
}
