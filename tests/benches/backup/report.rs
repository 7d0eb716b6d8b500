use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cost::Cost;

/// A program and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    program: String,
    operation: &'static str,
}

/// Of each row, all rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// In the order of their first round.
    rows: Vec<(Row, Vec<Cost>, Vec<u64>)>,
}

impl Row {
    pub(crate) fn new(program: &str, operation: &'static str) -> Self {
        Self { program: program.to_owned(), operation }
    }
}

impl Report {
    /// `stored` is the repository's size afterwards, in bytes.
    pub(crate) fn add(&mut self, row: Row, cost: Cost, stored: Option<u64>) {
        eprintln!("  {:12} {:.2} s", row.operation, cost.wall.as_secs_f64());
        let at = self.rows.iter().position(|(known, ..)| *known == row).unwrap_or_else(|| {
            self.rows.push((row, Vec::new(), Vec::new()));
            self.rows.len() - 1
        });
        self.rows[at].1.push(cost);
        self.rows[at].2.extend(stored);
    }

    /// Medians, and the spread of the wall time.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "| operation | program | wall s | min–max | CPU s | peak MiB | stored MiB |\n|---|---|---|---|---|---|---|\n",
        );
        let mut by_operation: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, (row, ..)) in self.rows.iter().enumerate() {
            let first = self.rows.iter().position(|(other, ..)| other.operation == row.operation).unwrap();
            by_operation.entry(first).or_default().push(at);
        }
        for at in by_operation.into_values().flatten() {
            let (row, costs, stored) = &self.rows[at];
            let walls: Vec<f64> = costs.iter().map(|cost| cost.wall.as_secs_f64()).collect();
            let cpu = median(costs.iter().map(|cost| cost.cpu.as_secs_f64()));
            #[allow(clippy::cast_precision_loss)]
            let peaks = (0..costs[0].peaks_kib.len())
                .map(|at| median(costs.iter().map(|cost| cost.peaks_kib[at] as f64 / 1024.0)))
                .map(|peak| format!("{peak:.0}"))
                .collect::<Vec<_>>()
                .join(" / ");
            #[allow(clippy::cast_precision_loss)]
            let stored = median(stored.iter().map(|bytes| *bytes as f64 / f64::from(1 << 20)));
            let stored = if stored.is_nan() { "-".to_owned() } else { format!("{stored:.1}") };
            writeln!(
                text,
                "| {} | {} | {:.2} | {:.2}–{:.2} | {cpu:.2} | {peaks} | {stored} |",
                row.operation,
                row.program,
                median(walls.iter().copied()),
                walls.iter().copied().fold(f64::INFINITY, f64::min),
                walls.iter().copied().fold(0.0, f64::max),
            )
            .unwrap();
        }
        text
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
