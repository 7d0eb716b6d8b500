use insta::assert_snapshot;

use super::*;

fn errors<T: std::fmt::Debug>(results: impl IntoIterator<Item = Result<T, ScheduleError>>) -> String {
    results.into_iter().map(|result| result.unwrap_err().to_string()).collect::<Vec<_>>().join("\n")
}

fn crons(expressions: &[&str]) -> String {
    errors(expressions.iter().map(|expression| Schedule::cron(expression, "UTC")))
}

#[test]
fn wrong_number_of_fields() {
    assert_snapshot!(crons(&["", " ", "0 2 * *", "0 0 2 * * *", "0 0 2 * * * 2026"]), @r#"
    cron: "" has 0 fields; expected five: minute, hour, day of month, month, day of week (no seconds: for periods under a minute use `every`)
    cron: " " has 0 fields; expected five: minute, hour, day of month, month, day of week (no seconds: for periods under a minute use `every`)
    cron: "0 2 * *" has 4 fields; expected five: minute, hour, day of month, month, day of week (no seconds: for periods under a minute use `every`)
    cron: "0 0 2 * * *" has 6 fields; expected five: minute, hour, day of month, month, day of week (no seconds: for periods under a minute use `every`)
    cron: "0 0 2 * * * 2026" has 7 fields; expected five: minute, hour, day of month, month, day of week (no seconds: for periods under a minute use `every`)
    "#);
}

#[test]
fn bad_values_name_their_field() {
    assert_snapshot!(
        crons(&["60 2 * * *", "0 24 * * *", "0 2 0 * *", "0 2 32 * *", "0 2 * 13 *", "0 2 * * 8", "-1 2 * * *"]),
        @r#"
        cron: minute "60" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: hour "24" is not valid; expected 0 to 23, *, lists (2,14), ranges (8-18), steps (*/4)
        cron: day of month "0" is not valid; expected 1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to the 15th), LW (the last weekday)
        cron: day of month "32" is not valid; expected 1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to the 15th), LW (the last weekday)
        cron: month "13" is not valid; expected 1 to 12 or JAN to DEC, *, lists (1,7), ranges (MAR-OCT), steps (*/3)
        cron: day of week "8" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
        cron: minute "-1" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        "#
    );
}

#[test]
fn bad_syntax() {
    assert_snapshot!(
        crons(&["a 2 * * *", "0,, 2 * * *", "0 5-2 * * *", "*/0 2 * * *", "5/15 * * * *", "/5 * * * *", "0 2 ? * *", "0\u{0} 2 * * *"]),
        @r#"
        cron: minute "a" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: minute "0,," is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: hour "5-2" is not valid; expected 0 to 23, *, lists (2,14), ranges (8-18), steps (*/4)
        cron: minute "*/0" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: minute "5/15" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: minute "/5" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: day of month "?" is not valid; expected 1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to the 15th), LW (the last weekday)
        cron: minute "0\0" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        "#
    );
}

/// croner reads `1JAN` as 11, November, and MON in the minutes as 1.
#[test]
fn names_out_of_place() {
    assert_snapshot!(
        crons(&["MON 2 * * *", "0 2 * 1JAN *", "0 2 * * JAN", "0 2 * MON *", "0 2 * * MONTUE", "0 2 * * SUNDAY", "0 2 * * ſUN"]),
        @r#"
        cron: minute "MON" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
        cron: month "1JAN" is not valid; expected 1 to 12 or JAN to DEC, *, lists (1,7), ranges (MAR-OCT), steps (*/3)
        cron: day of week "JAN" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
        cron: month "MON" is not valid; expected 1 to 12 or JAN to DEC, *, lists (1,7), ranges (MAR-OCT), steps (*/3)
        cron: day of week "MONTUE" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
        cron: day of week "SUNDAY" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
        cron: day of week "ſUN" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
        "#
    );
}

#[test]
fn steps_that_get_nowhere() {
    assert_snapshot!(crons(&["*/90 * * * *", "0 */24 * * *", "0 2 * * */+2"]), @r#"
    cron: minute "*/90" is not valid; expected 0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)
    cron: hour "*/24" is not valid; expected 0 to 23, *, lists (2,14), ranges (8-18), steps (*/4)
    cron: day of week "*/+2" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
    "#);
}

#[test]
fn extensions_that_are_not_offered() {
    assert_snapshot!(crons(&["0 2 1 * +MON", "0 2 * * L", "0 2 L-3 * *", "0 2 L,LW * *", "0 2 * * 5#L", "0 2 * * MON#6"]), @r#"
    cron: day of week "+MON" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
    cron: day of week "L" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
    cron: day of month "L-3" is not valid; expected 1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to the 15th), LW (the last weekday)
    cron: day of month "L,LW" is not valid; expected 1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to the 15th), LW (the last weekday)
    cron: day of week "5#L" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
    cron: day of week "MON#6" is not valid; expected 0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first Sunday of the month), SUNL (the last)
    "#);
}

#[test]
fn nicknames_besides_the_standard_ones() {
    assert_snapshot!(crons(&["@reboot", "@midnight", "@annually", "@every 5m", "@daily 2", "@DAILY"]), @r#"
    cron: "@reboot" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    cron: "@midnight" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    cron: "@annually" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    cron: "@every 5m" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    cron: "@daily 2" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    cron: "@DAILY" is no known nickname; expected @hourly, @daily, @weekly, @monthly or @yearly
    "#);
}

#[test]
fn days_that_never_come() {
    assert_snapshot!(crons(&["0 2 30 2 *", "0 2 31 4,6,9,11 *"]), @r#"
    cron: "0 2 30 2 *" never fires; expected days that exist in the months named
    cron: "0 2 31 4,6,9,11 *" never fires; expected days that exist in the months named
    "#);
}

#[test]
fn unknown_time_zones() {
    assert_snapshot!(
        errors(["", "Berlin", "europe/berlin", "+01:00", "CEST", "../UTC"].map(|zone| Schedule::cron("0 2 * * *", zone))),
        @r#"
        time_zone: "" is not known; expected an IANA name such as Europe/Berlin or UTC
        time_zone: "Berlin" is not known; expected an IANA name such as Europe/Berlin or UTC
        time_zone: "europe/berlin" is not known; expected an IANA name such as Europe/Berlin or UTC
        time_zone: "+01:00" is not known; expected an IANA name such as Europe/Berlin or UTC
        time_zone: "CEST" is not known; expected an IANA name such as Europe/Berlin or UTC
        time_zone: "../UTC" is not known; expected an IANA name such as Europe/Berlin or UTC
        "#
    );
}

#[test]
fn periods() {
    assert_snapshot!(
        errors(["", "15", "m", "15 m", "-15m", "1.5h", "15M", "1w", "30m1h", "1h1h", "1hm", "٣m"].map(Schedule::every)),
        @r#"
        every: "" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "15" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "m" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "15 m" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "-15m" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "1.5h" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "15M" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "1w" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "30m1h" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "1h1h" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "1hm" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        every: "٣m" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        "#
    );
}

#[test]
fn periods_out_of_range() {
    assert_snapshot!(
        errors(["0s", "9s", "366d1s", "367d", "99999999999999999999d", "9223372036854775807s9s"].map(Schedule::every)),
        @r#"
        every: "0s" is out of range; expected 10s to 366d
        every: "9s" is out of range; expected 10s to 366d
        every: "366d1s" is out of range; expected 10s to 366d
        every: "367d" is out of range; expected 10s to 366d
        every: "99999999999999999999d" is out of range; expected 10s to 366d
        every: "9223372036854775807s9s" is not a period; expected days, hours, minutes and seconds such as 1d, 1h30m, 15m or 90s
        "#
    );
}

#[test]
fn endless_text() {
    let long = "0,".repeat(1_000_000);
    assert_snapshot!(
        errors([Schedule::cron(&long, "UTC"), Schedule::cron("@daily", &long), Schedule::every(&long)]),
        @"
        cron: 2000000 bytes; expected at most 256
        time_zone: 2000000 bytes; expected at most 256
        every: 2000000 bytes; expected at most 256
        "
    );
}

#[test]
fn the_longest_text_that_is_read() {
    let minutes = |count: usize| format!("10{} 0 * * *", ",0".repeat(count));
    assert_eq!((minutes(123).len(), minutes(124).len()), (256, 258));
    assert!(Schedule::cron(&minutes(123), "UTC").is_ok());
    assert!(matches!(Schedule::cron(&minutes(124), "UTC"), Err(ScheduleError::TooLong { length: 258, .. })));
    assert_eq!(seconds_of(&format!("{:0>63}s", 60)), Some(60));
    assert_eq!(seconds_of(&format!("{:0>64}s", 60)), None);
}
