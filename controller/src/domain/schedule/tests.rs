//! Calendars: what fires when, as a person would check it with a wall calendar at hand.

use chrono::{DateTime, TimeZone, Utc};

use super::*;

mod calendar;
mod clock_changes;
mod downtime;
mod every;
mod properties;
mod refused;

fn cron(expression: &str, time_zone: &str) -> Schedule {
    Schedule::cron(expression, time_zone).unwrap()
}

fn every(text: &str) -> Schedule {
    Schedule::every(text).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A slot a line: on the wall, and in UTC.
fn line(schedule: &Schedule, slot: DateTime<Utc>) -> String {
    let zone = match schedule {
        Schedule::Cron { time_zone, .. } => *time_zone,
        Schedule::Every { .. } => chrono_tz::UTC,
    };
    let wall = zone.from_utc_datetime(&slot.naive_utc()).format("%a %Y-%m-%d %H:%M:%S %:z");
    format!("{wall} = {}", slot.format("%dT%H:%M:%SZ"))
}

fn calendar(schedule: &Schedule, after: &str, count: usize) -> String {
    let slots = schedule.preview(at(after), count);
    slots.into_iter().map(|slot| line(schedule, slot)).collect::<Vec<_>>().join("\n")
}

fn newest(schedule: &Schedule, after: &str, until: &str) -> String {
    schedule.newest_between(at(after), at(until)).map_or("none".to_owned(), |slot| line(schedule, slot))
}
