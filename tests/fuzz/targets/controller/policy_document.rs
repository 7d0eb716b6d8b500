//! Policies as they come to the controller and as it keeps them: a schedule that is taken can be asked about any time.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the controller's own files")]

mod domain;

use chrono::{DateTime, Utc};
use domain::policy::PolicyDocument;
use domain::schedule::Schedule;
use holdfast_fuzz as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let Some((at, data)) = data.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let schedule = match mode {
        0 => {
            let Ok(document) = serde_json::from_str::<PolicyDocument>(text) else { return };
            let document = document.with_defaults();
            let Ok(spec) = document.check("name") else { return };
            let again = serde_json::to_string(&document).expect("it can be kept");
            assert_eq!(serde_json::from_str::<PolicyDocument>(&again).ok().as_ref(), Some(&document));
            assert_eq!(document.clone().with_defaults(), document);
            spec.schedule
        }
        1 => {
            let (expression, zone) = text.rsplit_once(' ').unwrap_or((text, "UTC"));
            let Ok(schedule) = Schedule::cron(expression, zone) else { return };
            schedule
        }
        2 => {
            let Ok(schedule) = Schedule::every(text) else { return };
            schedule
        }
        _ => return,
    };
    // Any second of five millennia, and what chrono cannot count.
    let Some(at) = DateTime::<Utc>::from_timestamp(i64::from_le_bytes(*at) >> 20, 0) else { return };
    check(&schedule, at);
});

fn check(schedule: &Schedule, at: DateTime<Utc>) {
    if let Some(next) = schedule.next_after(at) {
        assert!(next > at, "the next slot is later");
        assert_eq!(schedule.newest_between(at, next), Some(next), "nothing is between: {schedule:?} {at}");
        if let Some(before) = schedule.newest_between(DateTime::UNIX_EPOCH, at)
            && next.signed_duration_since(before).num_days() < 365
        {
            assert_eq!(schedule.next_after(before), Some(next), "slots follow each other: {schedule:?} {at}");
        }
    }
    let slots = schedule.preview(at, 3);
    assert!(slots.is_sorted_by(|a, b| a < b));
}
