use super::{ScheduleError, parser};

/// Refuses what is not five valid fields or a nickname, naming the field. Stricter than croner, which replaces names
/// anywhere in the text (`1JAN` would be month 11), ignores empty items, and takes steps that never get anywhere.
pub(super) fn check(text: &str) -> Result<(), ScheduleError> {
    if text.trim_start().starts_with('@') {
        return if NICKNAMES.contains(&text.trim()) {
            Ok(())
        } else {
            Err(ScheduleError::Nickname { value: text.to_owned() })
        };
    }
    let values: Vec<&str> = text.split_whitespace().collect();
    if values.len() != FIELDS.len() {
        return Err(ScheduleError::FieldCount { value: text.to_owned(), found: values.len() });
    }
    for (index, field) in FIELDS.iter().enumerate() {
        // croner does not say which field it dislikes, so it gets each of them alone.
        let mut alone = ["*"; FIELDS.len()];
        alone[index] = values[index];
        if !field.is_well_formed(values[index]) || parser().parse(&alone.join(" ")).is_err() {
            return Err(ScheduleError::Field {
                field: field.name,
                value: values[index].to_owned(),
                expected: field.expected,
            });
        }
    }
    Ok(())
}

const NICKNAMES: [&str; 5] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly"];

struct Field {
    name: &'static str,
    /// The longest step that reaches a second value.
    longest_step: u16,
    /// Whether this stands for something besides `*` and numbers; in upper case.
    is_special: fn(&str) -> bool,
    expected: &'static str,
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        longest_step: 59,
        is_special: |_| false,
        expected: "0 to 59, *, lists (0,30), ranges (0-29), steps (*/15)",
    },
    Field {
        name: "hour",
        longest_step: 23,
        is_special: |_| false,
        expected: "0 to 23, *, lists (2,14), ranges (8-18), steps (*/4)",
    },
    Field {
        name: "day of month",
        longest_step: 30,
        is_special: |atom| matches!(atom, "L" | "LW") || atom.strip_suffix('W').is_some_and(is_number),
        expected: "1 to 31, *, lists (1,15), ranges (1-7), steps (*/2), L (the last day), 15W (the weekday nearest to \
                   the 15th), LW (the last weekday)",
    },
    Field {
        name: "month",
        longest_step: 11,
        is_special: |atom| MONTHS.contains(&atom),
        expected: "1 to 12 or JAN to DEC, *, lists (1,7), ranges (MAR-OCT), steps (*/3)",
    },
    Field {
        name: "day of week",
        longest_step: 6,
        is_special: |atom| {
            let day = atom.strip_suffix('L').unwrap_or(atom);
            WEEKDAYS.contains(&day) || (atom != day && is_number(day))
        },
        expected: "0 to 7 (0 and 7 are Sunday) or SUN to SAT, *, lists (MON,THU), ranges (MON-FRI), SUN#1 (the first \
                   Sunday of the month), SUNL (the last)",
    },
];

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Field {
    fn is_well_formed(&self, value: &str) -> bool {
        let value = value.to_ascii_uppercase();
        // croner hears only the LW of these two.
        let has = |day: &str| value.split(',').any(|item| item == day);
        if has("L") && has("LW") {
            return false;
        }
        value.split(',').all(|item| {
            let (values, step) =
                item.split_once('/').map_or((item, None), |(values, step)| (values, Some(step)));
            values.split(['-', '#']).all(|atom| atom == "*" || is_number(atom) || (self.is_special)(atom))
                && step.is_none_or(|step| {
                    is_number(step) && step.parse().is_ok_and(|step| (1..=self.longest_step).contains(&step))
                })
        })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
