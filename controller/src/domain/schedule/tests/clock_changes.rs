use insta::assert_snapshot;

use super::*;

#[test]
fn berlin_spring_runs_a_skipped_time_after_the_gap() {
    assert_snapshot!(calendar(&cron("30 2 * * *", "Europe/Berlin"), "2026-03-27T12:00:00Z", 4), @"
    Sat 2026-03-28 02:30:00 +01:00 = 28T01:30:00Z
    Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z
    Mon 2026-03-30 02:30:00 +02:00 = 30T00:30:00Z
    Tue 2026-03-31 02:30:00 +02:00 = 31T00:30:00Z
    ");
}

/// croner alone would lose the 02:00.
#[test]
fn berlin_spring_keeps_the_skipped_hour_of_a_list() {
    assert_snapshot!(calendar(&cron("0 2,14 * * *", "Europe/Berlin"), "2026-03-28T00:00:00Z", 5), @"
    Sat 2026-03-28 02:00:00 +01:00 = 28T01:00:00Z
    Sat 2026-03-28 14:00:00 +01:00 = 28T13:00:00Z
    Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z
    Sun 2026-03-29 14:00:00 +02:00 = 29T12:00:00Z
    Mon 2026-03-30 02:00:00 +02:00 = 30T00:00:00Z
    ");
}

/// The 02:00, the 02:30 and the real 03:00 are one slot.
#[test]
fn berlin_spring_runs_several_skipped_times_once() {
    assert_snapshot!(calendar(&cron("0,30 1,2,3 * * *", "Europe/Berlin"), "2026-03-28T23:00:00Z", 5), @"
    Sun 2026-03-29 01:00:00 +01:00 = 29T00:00:00Z
    Sun 2026-03-29 01:30:00 +01:00 = 29T00:30:00Z
    Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z
    Sun 2026-03-29 03:30:00 +02:00 = 29T01:30:00Z
    Mon 2026-03-30 01:00:00 +02:00 = 29T23:00:00Z
    ");
}

#[test]
fn berlin_spring_does_not_repeat_the_hour_before() {
    assert_snapshot!(calendar(&cron("59 1 * * *", "Europe/Berlin"), "2026-03-27T12:00:00Z", 3), @"
    Sat 2026-03-28 01:59:00 +01:00 = 28T00:59:00Z
    Sun 2026-03-29 01:59:00 +01:00 = 29T00:59:00Z
    Mon 2026-03-30 01:59:00 +02:00 = 29T23:59:00Z
    ");
}

#[test]
fn berlin_spring_quarter_hours_skip_the_gap() {
    assert_snapshot!(calendar(&cron("*/15 * * * *", "Europe/Berlin"), "2026-03-29T00:25:00Z", 5), @"
    Sun 2026-03-29 01:30:00 +01:00 = 29T00:30:00Z
    Sun 2026-03-29 01:45:00 +01:00 = 29T00:45:00Z
    Sun 2026-03-29 03:00:00 +02:00 = 29T01:00:00Z
    Sun 2026-03-29 03:15:00 +02:00 = 29T01:15:00Z
    Sun 2026-03-29 03:30:00 +02:00 = 29T01:30:00Z
    ");
}

/// Vixie's rule: `*` in the minute makes it an interval, so the night of the 29th has none.
#[test]
fn berlin_spring_loses_an_interval_inside_the_gap() {
    assert_snapshot!(calendar(&cron("*/30 2 * * *", "Europe/Berlin"), "2026-03-27T12:00:00Z", 5), @"
    Sat 2026-03-28 02:00:00 +01:00 = 28T01:00:00Z
    Sat 2026-03-28 02:30:00 +01:00 = 28T01:30:00Z
    Mon 2026-03-30 02:00:00 +02:00 = 30T00:00:00Z
    Mon 2026-03-30 02:30:00 +02:00 = 30T00:30:00Z
    Tue 2026-03-31 02:00:00 +02:00 = 31T00:00:00Z
    ");
}

#[test]
fn berlin_autumn_runs_a_repeated_time_once() {
    assert_snapshot!(calendar(&cron("30 2 * * *", "Europe/Berlin"), "2026-10-23T12:00:00Z", 4), @"
    Sat 2026-10-24 02:30:00 +02:00 = 24T00:30:00Z
    Sun 2026-10-25 02:30:00 +02:00 = 25T00:30:00Z
    Mon 2026-10-26 02:30:00 +01:00 = 26T01:30:00Z
    Tue 2026-10-27 02:30:00 +01:00 = 27T01:30:00Z
    ");
}

#[test]
fn berlin_autumn_runs_a_list_of_hours_once() {
    assert_snapshot!(calendar(&cron("0 1,2,3 * * *", "Europe/Berlin"), "2026-10-24T22:00:00Z", 4), @"
    Sun 2026-10-25 01:00:00 +02:00 = 24T23:00:00Z
    Sun 2026-10-25 02:00:00 +02:00 = 25T00:00:00Z
    Sun 2026-10-25 03:00:00 +01:00 = 25T02:00:00Z
    Mon 2026-10-26 01:00:00 +01:00 = 26T00:00:00Z
    ");
}

#[test]
fn berlin_autumn_quarter_hours_run_in_both_passes() {
    assert_snapshot!(calendar(&cron("*/15 * * * *", "Europe/Berlin"), "2026-10-24T23:50:00Z", 10), @"
    Sun 2026-10-25 02:00:00 +02:00 = 25T00:00:00Z
    Sun 2026-10-25 02:15:00 +02:00 = 25T00:15:00Z
    Sun 2026-10-25 02:30:00 +02:00 = 25T00:30:00Z
    Sun 2026-10-25 02:45:00 +02:00 = 25T00:45:00Z
    Sun 2026-10-25 02:00:00 +01:00 = 25T01:00:00Z
    Sun 2026-10-25 02:15:00 +01:00 = 25T01:15:00Z
    Sun 2026-10-25 02:30:00 +01:00 = 25T01:30:00Z
    Sun 2026-10-25 02:45:00 +01:00 = 25T01:45:00Z
    Sun 2026-10-25 03:00:00 +01:00 = 25T02:00:00Z
    Sun 2026-10-25 03:15:00 +01:00 = 25T02:15:00Z
    ");
}

#[test]
fn berlin_hourly_runs_23_and_25_times() {
    let hourly = cron("@hourly", "Europe/Berlin");
    let on = |day: &str| {
        let lines = calendar(&hourly, &format!("{day}T12:00:00Z"), 48);
        let next = at(&format!("{day}T12:00:00Z")).date_naive().succ_opt().unwrap().to_string();
        lines.lines().filter(|line| line.contains(&format!(" {next} "))).count()
    };
    assert_eq!((on("2026-03-27"), on("2026-03-28"), on("2026-10-24")), (24, 23, 25));
}

#[test]
fn new_york_spring() {
    assert_snapshot!(calendar(&cron("30 2 * * *", "America/New_York"), "2026-03-06T12:00:00Z", 4), @"
    Sat 2026-03-07 02:30:00 -05:00 = 07T07:30:00Z
    Sun 2026-03-08 03:00:00 -04:00 = 08T07:00:00Z
    Mon 2026-03-09 02:30:00 -04:00 = 09T06:30:00Z
    Tue 2026-03-10 02:30:00 -04:00 = 10T06:30:00Z
    ");
}

#[test]
fn new_york_autumn() {
    assert_snapshot!(calendar(&cron("30 1 * * *", "America/New_York"), "2026-10-30T12:00:00Z", 4), @"
    Sat 2026-10-31 01:30:00 -04:00 = 31T05:30:00Z
    Sun 2026-11-01 01:30:00 -04:00 = 01T05:30:00Z
    Mon 2026-11-02 01:30:00 -05:00 = 02T06:30:00Z
    Tue 2026-11-03 01:30:00 -05:00 = 03T06:30:00Z
    ");
}

#[test]
fn new_york_autumn_half_hours_run_in_both_passes() {
    assert_snapshot!(calendar(&cron("*/30 * * * *", "America/New_York"), "2026-11-01T04:45:00Z", 6), @"
    Sun 2026-11-01 01:00:00 -04:00 = 01T05:00:00Z
    Sun 2026-11-01 01:30:00 -04:00 = 01T05:30:00Z
    Sun 2026-11-01 01:00:00 -05:00 = 01T06:00:00Z
    Sun 2026-11-01 01:30:00 -05:00 = 01T06:30:00Z
    Sun 2026-11-01 02:00:00 -05:00 = 01T07:00:00Z
    Sun 2026-11-01 02:30:00 -05:00 = 01T07:30:00Z
    ");
}

/// 02:00 becomes 02:30.
#[test]
fn lord_howe_spring_skips_half_an_hour() {
    assert_snapshot!(calendar(&cron("15 2 * * *", "Australia/Lord_Howe"), "2026-10-02T00:00:00Z", 3), @"
    Sat 2026-10-03 02:15:00 +10:30 = 02T15:45:00Z
    Sun 2026-10-04 02:30:00 +11:00 = 03T15:30:00Z
    Mon 2026-10-05 02:15:00 +11:00 = 04T15:15:00Z
    ");
}

/// 02:00 becomes 01:30.
#[test]
fn lord_howe_autumn_repeats_half_an_hour() {
    assert_snapshot!(calendar(&cron("45 1 * * *", "Australia/Lord_Howe"), "2026-04-03T00:00:00Z", 3), @"
    Sat 2026-04-04 01:45:00 +11:00 = 03T14:45:00Z
    Sun 2026-04-05 01:45:00 +11:00 = 04T14:45:00Z
    Mon 2026-04-06 01:45:00 +10:30 = 05T15:15:00Z
    ");
    assert_snapshot!(calendar(&cron("*/15 * * * *", "Australia/Lord_Howe"), "2026-04-04T14:10:00Z", 6), @"
    Sun 2026-04-05 01:15:00 +11:00 = 04T14:15:00Z
    Sun 2026-04-05 01:30:00 +11:00 = 04T14:30:00Z
    Sun 2026-04-05 01:45:00 +11:00 = 04T14:45:00Z
    Sun 2026-04-05 01:30:00 +10:30 = 04T15:00:00Z
    Sun 2026-04-05 01:45:00 +10:30 = 04T15:15:00Z
    Sun 2026-04-05 02:00:00 +10:30 = 04T15:30:00Z
    ");
}

/// 00:00 becomes 01:00.
#[test]
fn cairo_spring_skips_midnight() {
    assert_snapshot!(calendar(&cron("0 0 * * *", "Africa/Cairo"), "2026-04-22T12:00:00Z", 3), @"
    Thu 2026-04-23 00:00:00 +02:00 = 22T22:00:00Z
    Fri 2026-04-24 01:00:00 +03:00 = 23T22:00:00Z
    Sat 2026-04-25 00:00:00 +03:00 = 24T21:00:00Z
    ");
}

/// Midnight becomes 23:00 of the day that just ended.
#[test]
fn cairo_autumn_repeats_the_hour_before_midnight() {
    assert_snapshot!(calendar(&cron("30 23 * * *", "Africa/Cairo"), "2026-10-28T12:00:00Z", 3), @"
    Wed 2026-10-28 23:30:00 +03:00 = 28T20:30:00Z
    Thu 2026-10-29 23:30:00 +03:00 = 29T20:30:00Z
    Fri 2026-10-30 23:30:00 +02:00 = 30T21:30:00Z
    ");
    assert_snapshot!(calendar(&cron("0 0 * * *", "Africa/Cairo"), "2026-10-28T12:00:00Z", 3), @"
    Thu 2026-10-29 00:00:00 +03:00 = 28T21:00:00Z
    Fri 2026-10-30 00:00:00 +02:00 = 29T22:00:00Z
    Sat 2026-10-31 00:00:00 +02:00 = 30T22:00:00Z
    ");
}

#[test]
fn sao_paulo_spring_skips_midnight() {
    assert_snapshot!(calendar(&cron("@daily", "America/Sao_Paulo"), "2018-11-02T12:00:00Z", 4), @"
    Sat 2018-11-03 00:00:00 -03:00 = 03T03:00:00Z
    Sun 2018-11-04 01:00:00 -02:00 = 04T03:00:00Z
    Mon 2018-11-05 00:00:00 -02:00 = 05T02:00:00Z
    Tue 2018-11-06 00:00:00 -02:00 = 06T02:00:00Z
    ");
}

#[test]
fn sao_paulo_autumn_repeats_the_hour_before_midnight() {
    assert_snapshot!(calendar(&cron("30 23 * * *", "America/Sao_Paulo"), "2018-02-16T12:00:00Z", 3), @"
    Fri 2018-02-16 23:30:00 -02:00 = 17T01:30:00Z
    Sat 2018-02-17 23:30:00 -02:00 = 18T01:30:00Z
    Sun 2018-02-18 23:30:00 -03:00 = 19T02:30:00Z
    ");
}

/// In 1919 the clocks went from 23:30 to 00:30.
#[test]
fn toronto_gap_across_midnight_runs_on_the_next_day() {
    assert_snapshot!(calendar(&cron("45 23 * * *", "America/Toronto"), "1919-03-29T12:00:00Z", 3), @"
    Sat 1919-03-29 23:45:00 -05:00 = 30T04:45:00Z
    Mon 1919-03-31 00:30:00 -04:00 = 31T04:30:00Z
    Mon 1919-03-31 23:45:00 -04:00 = 01T03:45:00Z
    ");
}

/// There was no 30 December 2011: what it asked for runs as the 31st begins.
#[test]
fn apia_skipped_a_whole_day() {
    assert_snapshot!(calendar(&cron("0 2 * * *", "Pacific/Apia"), "2011-12-29T00:00:00Z", 4), @"
    Thu 2011-12-29 02:00:00 -10:00 = 29T12:00:00Z
    Sat 2011-12-31 00:00:00 +14:00 = 30T10:00:00Z
    Sat 2011-12-31 02:00:00 +14:00 = 30T12:00:00Z
    Sun 2012-01-01 02:00:00 +14:00 = 31T12:00:00Z
    ");
    assert_snapshot!(calendar(&cron("0 */12 * * *", "Pacific/Apia"), "2011-12-29T00:00:00Z", 4), @"
    Thu 2011-12-29 00:00:00 -10:00 = 29T10:00:00Z
    Thu 2011-12-29 12:00:00 -10:00 = 29T22:00:00Z
    Sat 2011-12-31 00:00:00 +14:00 = 30T10:00:00Z
    Sat 2011-12-31 12:00:00 +14:00 = 30T22:00:00Z
    ");
}
