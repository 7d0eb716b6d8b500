use insta::assert_snapshot;

use super::*;

#[test]
fn every_night_in_utc() {
    assert_snapshot!(calendar(&cron("0 2 * * *", "UTC"), "2026-01-01T02:00:00Z", 3), @"
    Fri 2026-01-02 02:00:00 +00:00 = 02T02:00:00Z
    Sat 2026-01-03 02:00:00 +00:00 = 03T02:00:00Z
    Sun 2026-01-04 02:00:00 +00:00 = 04T02:00:00Z
    ");
}

#[test]
fn kathmandu_is_five_hours_and_three_quarters_ahead() {
    assert_snapshot!(calendar(&cron("0 2 * * *", "Asia/Kathmandu"), "2026-06-01T00:00:00Z", 2), @"
    Tue 2026-06-02 02:00:00 +05:45 = 01T20:15:00Z
    Wed 2026-06-03 02:00:00 +05:45 = 02T20:15:00Z
    ");
}

#[test]
fn leap_year_has_a_29_february() {
    assert_snapshot!(calendar(&cron("0 2 * * *", "UTC"), "2028-02-27T12:00:00Z", 4), @"
    Mon 2028-02-28 02:00:00 +00:00 = 28T02:00:00Z
    Tue 2028-02-29 02:00:00 +00:00 = 29T02:00:00Z
    Wed 2028-03-01 02:00:00 +00:00 = 01T02:00:00Z
    Thu 2028-03-02 02:00:00 +00:00 = 02T02:00:00Z
    ");
}

#[test]
fn only_on_29_february() {
    assert_snapshot!(calendar(&cron("0 2 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 3), @"
    Tue 2028-02-29 02:00:00 +00:00 = 29T02:00:00Z
    Sun 2032-02-29 02:00:00 +00:00 = 29T02:00:00Z
    Fri 2036-02-29 02:00:00 +00:00 = 29T02:00:00Z
    ");
}

/// 2100 is no leap year: eight years without.
#[test]
fn on_29_february_across_the_year_2100() {
    assert_snapshot!(calendar(&cron("0 2 29 2 *", "UTC"), "2096-02-29T02:00:00Z", 1), @"Fri 2104-02-29 02:00:00 +00:00 = 29T02:00:00Z");
}

#[test]
fn day_31_leaves_out_short_months() {
    assert_snapshot!(calendar(&cron("0 2 31 * *", "UTC"), "2026-01-01T00:00:00Z", 8), @"
    Sat 2026-01-31 02:00:00 +00:00 = 31T02:00:00Z
    Tue 2026-03-31 02:00:00 +00:00 = 31T02:00:00Z
    Sun 2026-05-31 02:00:00 +00:00 = 31T02:00:00Z
    Fri 2026-07-31 02:00:00 +00:00 = 31T02:00:00Z
    Mon 2026-08-31 02:00:00 +00:00 = 31T02:00:00Z
    Sat 2026-10-31 02:00:00 +00:00 = 31T02:00:00Z
    Thu 2026-12-31 02:00:00 +00:00 = 31T02:00:00Z
    Sun 2027-01-31 02:00:00 +00:00 = 31T02:00:00Z
    ");
}

#[test]
fn last_day_of_the_month() {
    assert_snapshot!(calendar(&cron("0 2 L * *", "UTC"), "2028-01-01T00:00:00Z", 4), @"
    Mon 2028-01-31 02:00:00 +00:00 = 31T02:00:00Z
    Tue 2028-02-29 02:00:00 +00:00 = 29T02:00:00Z
    Fri 2028-03-31 02:00:00 +00:00 = 31T02:00:00Z
    Sun 2028-04-30 02:00:00 +00:00 = 30T02:00:00Z
    ");
}

#[test]
fn last_weekday_of_the_month() {
    assert_snapshot!(calendar(&cron("0 2 LW * *", "UTC"), "2026-01-01T00:00:00Z", 4), @"
    Fri 2026-01-30 02:00:00 +00:00 = 30T02:00:00Z
    Fri 2026-02-27 02:00:00 +00:00 = 27T02:00:00Z
    Tue 2026-03-31 02:00:00 +00:00 = 31T02:00:00Z
    Thu 2026-04-30 02:00:00 +00:00 = 30T02:00:00Z
    ");
}

#[test]
fn weekday_nearest_to_the_15th() {
    assert_snapshot!(calendar(&cron("0 2 15W * *", "UTC"), "2026-01-01T00:00:00Z", 3), @"
    Thu 2026-01-15 02:00:00 +00:00 = 15T02:00:00Z
    Mon 2026-02-16 02:00:00 +00:00 = 16T02:00:00Z
    Mon 2026-03-16 02:00:00 +00:00 = 16T02:00:00Z
    ");
    assert_snapshot!(calendar(&cron("0 2 15W * *", "UTC"), "2026-08-01T00:00:00Z", 1), @"Fri 2026-08-14 02:00:00 +00:00 = 14T02:00:00Z");
}

#[test]
fn working_days() {
    assert_snapshot!(calendar(&cron("0 22 * * MON-FRI", "UTC"), "2026-06-04T00:00:00Z", 4), @"
    Thu 2026-06-04 22:00:00 +00:00 = 04T22:00:00Z
    Fri 2026-06-05 22:00:00 +00:00 = 05T22:00:00Z
    Mon 2026-06-08 22:00:00 +00:00 = 08T22:00:00Z
    Tue 2026-06-09 22:00:00 +00:00 = 09T22:00:00Z
    ");
}

#[test]
fn weekday_list() {
    assert_snapshot!(calendar(&cron("0 22 * * 1,3,sat", "UTC"), "2026-06-04T00:00:00Z", 4), @"
    Sat 2026-06-06 22:00:00 +00:00 = 06T22:00:00Z
    Mon 2026-06-08 22:00:00 +00:00 = 08T22:00:00Z
    Wed 2026-06-10 22:00:00 +00:00 = 10T22:00:00Z
    Sat 2026-06-13 22:00:00 +00:00 = 13T22:00:00Z
    ");
}

#[test]
fn sunday_is_0_and_7() {
    let sundays = calendar(&cron("0 2 * * 0", "UTC"), "2026-06-01T00:00:00Z", 3);
    for other in ["0 2 * * 7", "0 2 * * SUN", "0 2 * * sun", "0 2 * * 7-7"] {
        assert_eq!(calendar(&cron(other, "UTC"), "2026-06-01T00:00:00Z", 3), sundays, "{other}");
    }
    assert_snapshot!(sundays, @"
    Sun 2026-06-07 02:00:00 +00:00 = 07T02:00:00Z
    Sun 2026-06-14 02:00:00 +00:00 = 14T02:00:00Z
    Sun 2026-06-21 02:00:00 +00:00 = 21T02:00:00Z
    ");
}

#[test]
fn friday_to_sunday() {
    assert_snapshot!(calendar(&cron("0 2 * * FRI-SUN", "UTC"), "2026-06-01T00:00:00Z", 4), @"
    Fri 2026-06-05 02:00:00 +00:00 = 05T02:00:00Z
    Sat 2026-06-06 02:00:00 +00:00 = 06T02:00:00Z
    Sun 2026-06-07 02:00:00 +00:00 = 07T02:00:00Z
    Fri 2026-06-12 02:00:00 +00:00 = 12T02:00:00Z
    ");
}

#[test]
fn first_monday_and_last_friday() {
    assert_snapshot!(calendar(&cron("0 2 * * MON#1", "UTC"), "2026-06-01T02:00:00Z", 2), @"
    Mon 2026-07-06 02:00:00 +00:00 = 06T02:00:00Z
    Mon 2026-08-03 02:00:00 +00:00 = 03T02:00:00Z
    ");
    assert_snapshot!(calendar(&cron("0 2 * * FRIL", "UTC"), "2026-06-01T02:00:00Z", 2), @"
    Fri 2026-06-26 02:00:00 +00:00 = 26T02:00:00Z
    Fri 2026-07-31 02:00:00 +00:00 = 31T02:00:00Z
    ");
}

#[test]
fn day_of_month_or_day_of_week() {
    assert_snapshot!(calendar(&cron("0 2 13 * FRI", "UTC"), "2026-06-01T00:00:00Z", 6), @"
    Fri 2026-06-05 02:00:00 +00:00 = 05T02:00:00Z
    Fri 2026-06-12 02:00:00 +00:00 = 12T02:00:00Z
    Sat 2026-06-13 02:00:00 +00:00 = 13T02:00:00Z
    Fri 2026-06-19 02:00:00 +00:00 = 19T02:00:00Z
    Fri 2026-06-26 02:00:00 +00:00 = 26T02:00:00Z
    Fri 2026-07-03 02:00:00 +00:00 = 03T02:00:00Z
    ");
}

#[test]
fn months_by_name() {
    assert_snapshot!(calendar(&cron("0 2 1 JAN,jul *", "UTC"), "2026-06-01T00:00:00Z", 3), @"
    Wed 2026-07-01 02:00:00 +00:00 = 01T02:00:00Z
    Fri 2027-01-01 02:00:00 +00:00 = 01T02:00:00Z
    Thu 2027-07-01 02:00:00 +00:00 = 01T02:00:00Z
    ");
}

#[test]
fn year_end() {
    assert_snapshot!(calendar(&cron("*/20 23,0 31,1 12,1 *", "UTC"), "2026-12-31T23:10:00Z", 6), @"
    Thu 2026-12-31 23:20:00 +00:00 = 31T23:20:00Z
    Thu 2026-12-31 23:40:00 +00:00 = 31T23:40:00Z
    Fri 2027-01-01 00:00:00 +00:00 = 01T00:00:00Z
    Fri 2027-01-01 00:20:00 +00:00 = 01T00:20:00Z
    Fri 2027-01-01 00:40:00 +00:00 = 01T00:40:00Z
    Fri 2027-01-01 23:00:00 +00:00 = 01T23:00:00Z
    ");
}

#[test]
fn year_end_east_of_greenwich() {
    assert_snapshot!(calendar(&cron("0 0 1 1 *", "Pacific/Kiritimati"), "2026-12-01T00:00:00Z", 2), @"
    Fri 2027-01-01 00:00:00 +14:00 = 31T10:00:00Z
    Sat 2028-01-01 00:00:00 +14:00 = 31T10:00:00Z
    ");
}

/// A step is within the hour: `every: 45m` is the even one.
#[test]
fn every_45_minutes_starts_again_each_hour() {
    assert_snapshot!(calendar(&cron("*/45 * * * *", "UTC"), "2026-06-01T00:00:00Z", 4), @"
    Mon 2026-06-01 00:45:00 +00:00 = 01T00:45:00Z
    Mon 2026-06-01 01:00:00 +00:00 = 01T01:00:00Z
    Mon 2026-06-01 01:45:00 +00:00 = 01T01:45:00Z
    Mon 2026-06-01 02:00:00 +00:00 = 01T02:00:00Z
    ");
}

#[test]
fn nicknames() {
    assert_snapshot!(calendar(&cron("@hourly", "UTC"), "2026-06-03T12:34:56Z", 2), @"
    Wed 2026-06-03 13:00:00 +00:00 = 03T13:00:00Z
    Wed 2026-06-03 14:00:00 +00:00 = 03T14:00:00Z
    ");
    assert_snapshot!(calendar(&cron("@daily", "UTC"), "2026-06-03T12:34:56Z", 2), @"
    Thu 2026-06-04 00:00:00 +00:00 = 04T00:00:00Z
    Fri 2026-06-05 00:00:00 +00:00 = 05T00:00:00Z
    ");
    assert_snapshot!(calendar(&cron("@weekly", "UTC"), "2026-06-03T12:34:56Z", 2), @"
    Sun 2026-06-07 00:00:00 +00:00 = 07T00:00:00Z
    Sun 2026-06-14 00:00:00 +00:00 = 14T00:00:00Z
    ");
    assert_snapshot!(calendar(&cron("@monthly", "UTC"), "2026-06-03T12:34:56Z", 2), @"
    Wed 2026-07-01 00:00:00 +00:00 = 01T00:00:00Z
    Sat 2026-08-01 00:00:00 +00:00 = 01T00:00:00Z
    ");
    assert_snapshot!(calendar(&cron("@yearly", "UTC"), "2026-06-03T12:34:56Z", 2), @"
    Fri 2027-01-01 00:00:00 +00:00 = 01T00:00:00Z
    Sat 2028-01-01 00:00:00 +00:00 = 01T00:00:00Z
    ");
}

#[test]
fn after_is_strict_to_the_fraction() {
    let nightly = cron("0 2 * * *", "UTC");
    assert_eq!(nightly.next_after(at("2026-06-01T01:59:59.999Z")), Some(at("2026-06-01T02:00:00Z")));
    assert_eq!(nightly.next_after(at("2026-06-01T02:00:00Z")), Some(at("2026-06-02T02:00:00Z")));
    assert_eq!(nightly.next_after(at("2026-06-01T02:00:00.001Z")), Some(at("2026-06-02T02:00:00Z")));
}

/// Five Mondays in a February: 2016, 2044.
#[test]
fn beyond_eight_years_is_never() {
    let rare = cron("0 2 * 2 MON#5", "UTC");
    assert_eq!(rare.next_after(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(rare.next_after(at("2040-01-01T00:00:00Z")), Some(at("2044-02-29T02:00:00Z")));
}

#[test]
fn the_ends_of_time_are_no_trouble() {
    for schedule in
        [cron("* * * * *", "Pacific/Kiritimati"), cron("0 2 * * *", "Europe/Berlin"), every("10s")]
    {
        for end in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            assert_eq!(schedule.next_after(end), None);
            assert_eq!(schedule.newest_between(DateTime::<Utc>::MIN_UTC, end), None);
        }
        let now = at("2026-06-01T00:00:00Z");
        assert!(schedule.newest_between(DateTime::<Utc>::MIN_UTC, now).is_some());
    }
}

#[test]
fn preview_is_bounded() {
    assert_eq!(every("10s").preview(at("2026-06-01T00:00:00Z"), usize::MAX).len(), 100);
    assert!(every("10s").preview(at("2026-06-01T00:00:00Z"), 0).is_empty());
}

#[test]
fn the_spec_reads_back_as_written() {
    let Schedule::Cron { expression, time_zone } = cron("0  2 * * mon", "Europe/Berlin") else { panic!() };
    assert_eq!((expression.to_string().as_str(), time_zone.name()), ("0  2 * * mon", "Europe/Berlin"));
    let Schedule::Every { period } = every("90m") else { panic!() };
    assert_eq!(period.to_string(), "90m");
}

#[test]
fn the_last_friday_by_name_and_by_number() {
    let (name, number) = (cron("0 2 * * FRIL", "UTC"), cron("0 2 * * 5L", "UTC"));
    let slots = name.preview(at("2026-01-01T00:00:00Z"), 3);
    assert_eq!(slots, ["2026-01-30T02:00:00Z", "2026-02-27T02:00:00Z", "2026-03-27T02:00:00Z"].map(at));
    assert_eq!(number.preview(at("2026-01-01T00:00:00Z"), 3), slots);
}

#[test]
fn a_log_shows_what_was_written_and_no_more() {
    let text = format!("{:?}", cron("0 2 * * *", "Europe/Berlin"));
    assert!(text.contains("\"0 2 * * *\"") && text.len() < 200, "{text}");
}
