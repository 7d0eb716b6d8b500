use std::collections::BTreeSet;

use chrono::{NaiveDateTime, TimeDelta, Timelike};
use proptest::prelude::*;

use super::*;

const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu"];

/// Days on which a clock was changed, the day before, in UTC: by an hour, half an hour, at midnight, across midnight,
/// by a day.
const CHANGES: [(&str, &str); 14] = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("Australia/Lord_Howe", "2026-10-02"),
    ("Australia/Lord_Howe", "2026-04-03"),
    ("Africa/Cairo", "2026-04-22"),
    ("Africa/Cairo", "2026-10-28"),
    ("America/Sao_Paulo", "2018-11-03"),
    ("America/Sao_Paulo", "2018-02-17"),
    ("America/Toronto", "1919-03-30"),
    ("Antarctica/Troll", "2026-03-28"),
    ("Antarctica/Troll", "2026-10-24"),
    ("Pacific/Apia", "2011-12-29"),
];

/// A minute or hour field and what it means, without croner.
#[derive(Clone, Debug)]
enum Values {
    Step(u32),
    List(BTreeSet<u32>),
}

impl Values {
    fn below(limit: u32) -> impl Strategy<Value = Self> {
        prop_oneof![
            (1..limit.min(30))
                .prop_filter("an hour field has steps to 23", move |step| *step < limit)
                .prop_map(Self::Step),
            proptest::collection::btree_set(0..limit, 1..5).prop_map(Self::List),
            // Where the clocks are changed.
            proptest::collection::btree_set(0..4.min(limit), 1..4).prop_map(Self::List),
            Just(Self::List(BTreeSet::from([limit - 1, 0]))),
        ]
    }

    fn text(&self) -> String {
        match self {
            Self::Step(1) => "*".to_owned(),
            Self::Step(step) => format!("*/{step}"),
            Self::List(values) => values.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }

    fn has(&self, value: u32) -> bool {
        match self {
            Self::Step(step) => value.is_multiple_of(*step),
            Self::List(values) => values.contains(&value),
        }
    }
}

/// Watches a clock minute by minute, with no other knowledge of its zone than what it shows. An interval fires
/// whenever the clock shows one of its times, fixed times when it first shows them or has passed them.
fn watch(
    minutes: &Values,
    hours: &Values,
    zone: chrono_tz::Tz,
    from: DateTime<Utc>,
    days: i64,
) -> Vec<DateTime<Utc>> {
    let asked = |wall: NaiveDateTime| minutes.has(wall.minute()) && hours.has(wall.hour());
    let fixed = matches!((minutes, hours), (Values::List(_), Values::List(_)));
    let shown = |instant: DateTime<Utc>| instant.with_timezone(&zone).naive_local();
    let minute = TimeDelta::minutes(1);
    let mut furthest = shown(from);
    let mut slots = Vec::new();
    for instant in (1..=days * 1440).map(|number| from + minute * i32::try_from(number).unwrap()) {
        let wall = shown(instant);
        let mut passed = false;
        while furthest < wall {
            furthest += minute;
            passed |= asked(furthest);
        }
        if if fixed { passed } else { asked(wall) } {
            slots.push(instant);
        }
    }
    slots
}

fn schedule() -> impl Strategy<Value = (Schedule, i64)> {
    // Each with a gap, in seconds, that can still be walked slot by slot.
    let days = 86_400;
    let crons = prop_oneof![
        (
            prop::sample::select(vec!["* * * * *", "*/15 * * * *", "*/7 1-3 * * *", "0,20 0-23 * * *"]),
            Just(3 * days)
        ),
        (
            prop::sample::select(vec![
                "0 2 * * *",
                "30 1,2,3 * * *",
                "@daily",
                "0 0 * * 7",
                "0 */6 13 * FRI",
                "59 23 L * *"
            ]),
            Just(400 * days)
        ),
        (prop::sample::select(vec!["0 2 29 2 *", "@yearly", "0 0 31W 1-6 *"]), Just(4000 * days)),
    ];
    let every = (10_i64..40_000, 1_i64..2_000)
        .prop_map(|(period, slots)| (every(&format!("{period}s")), (period * slots).min(3 * 86_400)));
    prop_oneof![
        4 => (crons, prop::sample::select(ZONES.to_vec())).prop_map(|((text, gap), zone)| (cron(text, zone), gap)),
        1 => every,
    ]
}

/// Milliseconds in the years 2018 to 2038.
fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    (1_514_764_800_000_i64..2_145_916_800_000)
        .prop_map(|millis| DateTime::from_timestamp_millis(millis).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn newest_is_the_last_of_walking(
        ((schedule, longest), after, part) in (schedule(), instant(), 0.0..1.0_f64),
    ) {
        #[expect(clippy::cast_possible_truncation)]
        let until = after + TimeDelta::milliseconds((longest as f64 * part * 1000.0) as i64);
        let walked = std::iter::successors(schedule.next_after(after), |slot| schedule.next_after(*slot))
            .take_while(|slot| *slot <= until)
            .last();
        prop_assert_eq!(schedule.newest_between(after, until), walked);
    }

    #[test]
    fn preview_ascends_strictly(((schedule, _), after) in (schedule(), instant())) {
        let preview = schedule.preview(after, 50);
        prop_assert!(preview.first().is_none_or(|first| *first > after));
        prop_assert!(preview.is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn a_clock_that_went_back_starts_nothing(((schedule, _), after, back) in (schedule(), instant(), 0_i64..10_000_000)) {
        prop_assert_eq!(schedule.newest_between(after, after - TimeDelta::seconds(back)), None);
    }

    #[test]
    fn agrees_with_watching_the_clock(
        ((zone, day), minutes, hours, part) in
            (prop::sample::select(CHANGES.to_vec()), Values::below(60), Values::below(24), 0_i64..3_600),
    ) {
        let schedule = cron(&format!("{} {} * * *", minutes.text(), hours.text()), zone);
        let from = at(&format!("{day}T00:00:00Z"));
        let watched = watch(&minutes, &hours, zone.parse().unwrap(), from, 3);
        let end = from + TimeDelta::days(3);

        let walked: Vec<_> = std::iter::successors(schedule.next_after(from), |slot| schedule.next_after(*slot))
            .take_while(|slot| *slot <= end)
            .collect();
        prop_assert_eq!(&walked, &watched);

        // From anywhere, not only from slot to slot.
        for number in 0..3 * 24 {
            let now = from + TimeDelta::hours(number) + TimeDelta::seconds(part);
            let (past, future) = watched.split_at(watched.partition_point(|slot| *slot <= now));
            prop_assert_eq!(schedule.newest_between(from, now), past.last().copied(), "until {}", now);
            let next = schedule.next_after(now).filter(|slot| *slot <= end);
            prop_assert_eq!(next, future.first().copied(), "after {}", now);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", cron_like in "[0-9*,/LW#@A-Z -]{1,30}") {
        for text in [text, cron_like] {
            let _ = Schedule::every(&text);
            if let Ok(schedule) = Schedule::cron(&text, "Europe/Berlin") {
                let _ = schedule.preview(at("2026-01-01T00:00:00Z"), 3);
            }
        }
    }
}
