//! Which points a policy keeps. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Datelike as _, Utc};
use chrono_tz::Tz;

/// How many points are kept of each disk by each rule; a point that any rule keeps for any of its disks stays. All 0: every point
/// stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// The newest ones.
    pub(crate) last: u32,
    /// Of so many days, weeks (from Monday), months and years that have points, the newest point.
    pub(crate) daily: u32,
    pub(crate) weekly: u32,
    pub(crate) monthly: u32,
    pub(crate) yearly: u32,
    /// Where a day begins.
    pub(crate) time_zone: Tz,
}

/// A point that may be kept or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'d, T> {
    pub(crate) at: DateTime<Utc>,
    pub(crate) point: T,
    /// The names of the disks that it has.
    pub(crate) disks: &'d [String],
    /// Whether it has all the disks that were wanted when it was made.
    pub(crate) is_whole: bool,
}

impl Retention {
    /// Whether there is no rule.
    pub(crate) fn keeps_all(&self) -> bool {
        [self.last, self.daily, self.weekly, self.monthly, self.yearly] == [0; 5]
    }

    /// The points that no rule keeps, in the order that they are given in. Each disk has its own newest points: a point of one disk
    /// takes no other disk's place, and points of some disks take none of those that have all at one instant. The newest one of a disk
    /// is always kept, and of a disk that the newest whole point does not have any more that one alone: otherwise disks that come and go
    /// would keep everything. Days without points do not count, so that what stops making points loses none.
    pub(crate) fn expired<T: Copy + Ord>(&self, points: &[Candidate<'_, T>]) -> Vec<T> {
        if self.keeps_all() {
            return Vec::new();
        }
        let mut of_disk: BTreeMap<&str, Vec<(DateTime<Utc>, T)>> = BTreeMap::new();
        let (mut kept, mut whole) = (BTreeSet::new(), Vec::new());
        for Candidate { at, point, disks, is_whole } in points {
            if *is_whole {
                whole.push((*at, *point));
            }
            for disk in *disks {
                of_disk.entry(disk).or_default().push((*at, *point));
            }
            // There is nothing to go by.
            if disks.is_empty() {
                kept.insert(*point);
            }
        }
        let newest = points.iter().filter(|point| point.is_whole).max_by_key(|point| (point.at, point.point));
        for (disk, points) in of_disk {
            if newest.is_none_or(|newest| newest.disks.iter().any(|has| has == disk)) {
                self.keep(points, &mut kept);
            } else {
                kept.extend(points.into_iter().max().map(|(_, point)| point));
            }
        }
        if !whole.is_empty() {
            self.keep(whole, &mut kept);
        }
        points.iter().map(|candidate| candidate.point).filter(|point| !kept.contains(point)).collect()
    }

    /// Adds what is kept of one disk's points.
    fn keep<T: Copy + Ord>(&self, mut points: Vec<(DateTime<Utc>, T)>, kept: &mut BTreeSet<T>) {
        let Self { last, daily, weekly, monthly, yearly, time_zone } = *self;
        points.sort_unstable_by(|a, b| b.cmp(a));
        let newest_first = points;
        kept.extend(newest_first.iter().take(last.max(1) as usize).map(|(_, point)| *point));
        let mut keep = |count: u32, period: fn(DateTime<Tz>) -> (i32, u32)| {
            let mut periods = HashSet::new();
            for (at, point) in &newest_first {
                if periods.len() == count as usize {
                    break;
                }
                if periods.insert(period(at.with_timezone(&time_zone))) {
                    kept.insert(*point);
                }
            }
        };
        keep(daily, |at| (at.year(), at.ordinal()));
        keep(weekly, |at| (at.iso_week().year(), at.iso_week().week()));
        keep(monthly, |at| (at.year(), at.month()));
        keep(yearly, |at| (at.year(), 0));
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn keeping(last: u32, daily: u32, weekly: u32, monthly: u32, yearly: u32) -> Retention {
        Retention { last, daily, weekly, monthly, yearly, time_zone: Tz::UTC }
    }

    /// What is left, of points of one disk at these instants.
    fn left(retention: Retention, instants: &[&str]) -> Vec<String> {
        let disks = ["root".to_owned()];
        let candidate =
            |(point, text): (usize, &&str)| Candidate { at: at(text), point, disks: &disks, is_whole: true };
        let points: Vec<_> = instants.iter().enumerate().map(candidate).collect();
        let expired = retention.expired(&points);
        (0..instants.len())
            .filter(|index| !expired.contains(index))
            .map(|index| instants[index].to_owned())
            .collect()
    }

    #[test]
    fn without_rules_everything_stays() {
        let points = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"];
        assert_eq!(left(Retention::default(), &points), points);
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let points = [
            "2024-12-30T10:00:00Z", // Monday of the week of New Year
            "2024-12-31T10:00:00Z",
            "2025-01-01T10:00:00Z",
            "2025-01-05T10:00:00Z", // Sunday of the same week
            "2025-01-06T01:00:00Z",
            "2025-01-06T23:00:00Z",
        ];
        assert_eq!(left(keeping(2, 0, 0, 0, 0), &points), points[4..]);
        assert_eq!(left(keeping(0, 1, 0, 0, 0), &points), points[5..]);
        assert_eq!(left(keeping(0, 3, 0, 0, 0), &points), [points[2], points[3], points[5]]);
        assert_eq!(left(keeping(0, 0, 2, 0, 0), &points), [points[3], points[5]]);
        assert_eq!(left(keeping(0, 0, 0, 2, 0), &points), [points[1], points[5]]);
        assert_eq!(left(keeping(0, 0, 0, 0, 2), &points), [points[1], points[5]]);
        assert_eq!(left(keeping(0, 0, 0, 0, 1), &points), points[5..]);
        assert_eq!(left(keeping(1, 2, 0, 3, 0), &points), [points[1], points[3], points[5]]);
    }

    #[test]
    fn a_day_is_the_one_of_the_time_zone() {
        let points = ["2026-06-30T21:30:00Z", "2026-06-30T22:30:00Z"];
        assert_eq!(left(keeping(0, 5, 0, 0, 0), &points), points[1..]);
        let berlin = Retention { time_zone: Tz::Europe__Berlin, ..keeping(0, 5, 0, 0, 0) };
        assert_eq!(left(berlin, &points), points);
    }

    #[test]
    fn points_of_some_disks_take_no_place_of_whole_ones() {
        let [root, data] = ["root", "data"].map(str::to_owned);
        let (both, root, data) = ([root.clone(), data.clone()], [root], [data]);
        let candidate =
            |point: usize, text, disks, is_whole| Candidate { at: at(text), point, disks, is_whole };
        let points = [
            candidate(0, "2026-11-29T02:00:00Z", &both[..], true),
            candidate(1, "2026-11-30T02:00:00Z", &both[..], true),
            candidate(2, "2026-11-30T09:00:00Z", &root[..], false),
            candidate(3, "2026-11-30T10:00:00Z", &data[..], false),
        ];
        assert_eq!(keeping(1, 0, 0, 0, 0).expired(&points), [0]);
        assert_eq!(keeping(0, 1, 0, 0, 0).expired(&points), [0]);
    }

    #[test]
    fn disks_that_come_and_go_keep_their_newest_point_alone() {
        let disks: Vec<[String; 2]> =
            (0..5).map(|day| ["root".to_owned(), format!("tape-{}", day / 2)]).collect();
        let points: Vec<_> = disks
            .iter()
            .zip(0..)
            .map(|(disks, day)| Candidate {
                at: at("2026-11-01T02:00:00Z") + TimeDelta::days(day),
                point: day,
                disks,
                is_whole: true,
            })
            .collect();
        // 4 by the rule; 1 and 3 are the last ones of two tapes that are gone.
        assert_eq!(keeping(1, 0, 0, 0, 0).expired(&points), [0, 2]);
    }

    #[test]
    fn a_pause_costs_nothing() {
        let points = ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z", "2026-01-02T00:00:00Z"];
        assert_eq!(left(keeping(0, 2, 0, 0, 0), &points), points[1..]);
        assert_eq!(left(keeping(0, 3, 0, 0, 0), &points), points);
    }

    #[test]
    fn a_point_of_some_disks_takes_no_other_disks_place() {
        let [root, both] = [vec!["root".to_owned()], vec!["data".to_owned(), "root".to_owned()]];
        let made = [
            ("2026-06-29T02:00:00Z", &both),
            ("2026-06-30T02:00:00Z", &both),
            ("2026-06-30T09:00:00Z", &root),
            ("2026-06-30T10:00:00Z", &root),
        ];
        let points: Vec<_> = (0..)
            .zip(made)
            .map(|(point, (text, disks))| Candidate {
                at: at(text),
                point,
                disks: disks.as_slice(),
                is_whole: false,
            })
            .collect();
        assert_eq!(
            keeping(0, 7, 0, 0, 0).expired(&points),
            [2],
            "of the day the newest one of each disk stays"
        );
        assert_eq!(keeping(1, 0, 0, 0, 0).expired(&points), [0, 2]);
        let none = [Candidate { disks: &[], ..points[0] }, points[3]];
        assert_eq!(keeping(1, 0, 0, 0, 0).expired(&none), [0; 0]);
    }

    proptest! {
        /// What the rules keep of a disk, they keep whatever points there are of other disks.
        #[test]
        fn each_disk_keeps_what_it_would_keep_alone(
            made in prop::collection::btree_map(0_i64..2_000, 1_usize..8, 1..60),
            (last, daily, weekly, monthly, yearly) in (0_u32..4, 0_u32..9, 0_u32..5, 0_u32..5, 1_u32..3),
        ) {
            let start = at("2024-01-01T00:00:00Z");
            let retention = keeping(last, daily, weekly, monthly, yearly);
            let names = ["a", "b", "c"].map(str::to_owned);
            let disks_of = |mask: usize| -> Vec<String> {
                (0..3).filter(|bit| mask & 1 << bit != 0).map(|bit| names[bit].clone()).collect()
            };
            let sets: Vec<Vec<String>> = (0..8).map(disks_of).collect();
            let candidate = |hour: &i64, disks| Candidate { at: start + TimeDelta::hours(*hour), point: *hour, disks, is_whole: false };
            let all: Vec<_> = made.iter().map(|(hour, mask)| candidate(hour, sets[*mask].as_slice())).collect();
            let expired = retention.expired(&all);
            let mut expected: BTreeSet<i64> = made.keys().copied().collect();
            for (bit, name) in names.iter().enumerate() {
                let alone: Vec<_> = made
                    .iter()
                    .filter(|(_, mask)| *mask & 1 << bit != 0)
                    .map(|(hour, _)| candidate(hour, std::slice::from_ref(name)))
                    .collect();
                let gone = retention.expired(&alone);
                for kept in alone.iter().map(|one| one.point).filter(|hour| !gone.contains(hour)) {
                    expected.remove(&kept);
                }
            }
            prop_assert_eq!(expired, expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn what_is_kept_stays_kept_and_the_newest_always(
            mut hours in prop::collection::vec(0_i64..20_000, 1..60),
            (last, daily, weekly, monthly, yearly) in (0_u32..4, 0_u32..9, 0_u32..5, 0_u32..5, 0_u32..3),
        ) {
            hours.sort_unstable();
            hours.dedup();
            let start = at("2024-01-01T00:00:00Z");
            let disks = ["root".to_owned()];
            let points: Vec<_> = hours
                .iter()
                .map(|hour| Candidate { at: start + TimeDelta::hours(*hour), point: *hour, disks: &disks, is_whole: true })
                .collect();
            let retention = keeping(last, daily, weekly, monthly, yearly);
            let expired = retention.expired(&points);
            prop_assert!(!expired.contains(hours.last().unwrap()));
            prop_assert!(expired.len() < points.len());
            let rest: Vec<_> = points.iter().copied().filter(|one| !expired.contains(&one.point)).collect();
            prop_assert_eq!(retention.expired(&rest), Vec::<i64>::new());
            if last + daily + weekly + monthly + yearly > 0 {
                prop_assert!(rest.len() <= (last + daily + weekly + monthly + yearly).max(1) as usize);
                // More is kept by more.
                let more = keeping(last + 1, daily + 1, weekly + 1, monthly + 1, yearly + 1);
                prop_assert!(more.expired(&points).iter().all(|hour| expired.contains(hour)));
            }
        }
    }
}
