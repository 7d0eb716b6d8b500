use proptest::prelude::*;

use super::*;

fn cell(segment: u32, cell_block: u32) -> Place {
    Place::Cell { segment, cell: 0, cell_block }
}

/// Runs of a delta from gaps and lengths.
fn runs(delta: usize, lengths: &[(u64, u64)]) -> Vec<Run> {
    let mut at = 0;
    let place = |number: usize| {
        if number.is_multiple_of(3) { Place::Zero } else { cell(u32::try_from(number).unwrap(), 0) }
    };
    let run = |(number, (gap, length)): (usize, &(u64, u64))| {
        let first = at + gap;
        at = first + length;
        Run { first, end: at, delta, place: place(number) }
    };
    lengths.iter().enumerate().map(run).collect()
}

fn lengths() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0_u64..6, 1_u64..6), 0..12)
}

#[test]
fn what_is_newer_cuts_what_is_older_in_two() {
    let older = vec![Run { first: 0, end: 10, delta: 0, place: cell(1, 3) }];
    let newer = vec![Run { first: 4, end: 6, delta: 1, place: Place::Zero }];
    let expected = [
        Run { first: 0, end: 4, delta: 0, place: cell(1, 3) },
        Run { first: 4, end: 6, delta: 1, place: Place::Zero },
        Run { first: 6, end: 10, delta: 0, place: cell(1, 9) },
    ];
    assert_eq!(lay(older, newer), expected);
}

proptest! {
    /// The same as laying block by block, for any number of deltas.
    #[test]
    fn runs_over_runs_are_blocks_over_blocks(deltas in prop::collection::vec(lengths(), 1..5)) {
        let mut blocks = vec![None; 256];
        let mut laid = Vec::new();
        for (delta, lengths) in deltas.iter().enumerate() {
            let newer = runs(delta, lengths);
            for run in &newer {
                for block in run.first..run.end {
                    blocks[usize::try_from(block).unwrap()] = Some((delta, run.place.skip(block - run.first)));
                }
            }
            laid = lay(laid, newer);
        }
        let mut told = vec![None; 256];
        let mut at = 0;
        for run in &laid {
            prop_assert!(at <= run.first && run.first < run.end, "{laid:?}");
            at = run.end;
            for block in run.first..run.end {
                told[usize::try_from(block).unwrap()] = Some((run.delta, run.place.skip(block - run.first)));
            }
        }
        prop_assert_eq!(told, blocks);
    }
}
