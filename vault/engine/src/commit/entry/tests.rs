use super::*;

fn extent(first_block: u64, block_count: u64) -> Extent {
    Extent { first_block, block_count }
}

fn zeros(first: u64, count: u64) -> Placed {
    Placed { extent: extent(first, count), place: Place::Zero }
}

fn cell(first: u64, count: u64, cell_block: u32) -> Placed {
    Placed { extent: extent(first, count), place: Place::Cell { segment: 1, cell: 2, cell_block } }
}

fn hashes(first: u64, count: u64) -> HashRun {
    HashRun { extent: extent(first, count), hashes: (first..first + count).collect() }
}

fn no_hashes(first: u64, count: u64) -> HashRun {
    HashRun { extent: extent(first, count), hashes: Vec::new() }
}

/// What two become, if it is one.
fn joined<T: Entry + Clone + PartialEq + std::fmt::Debug>(one: &T, next: &T) -> Option<T> {
    let mut both = one.clone();
    match both.join(next.clone()) {
        None => Some(both),
        Some(back) => {
            assert_eq!((&both, &back), (one, next), "not joined, and changed all the same");
            None
        }
    }
}

#[test]
fn places_are_joined_where_the_second_goes_on_with_the_first() {
    assert_eq!(joined(&zeros(3, 2), &zeros(5, 4)), Some(zeros(3, 6)));
    assert_eq!(joined(&cell(3, 2, 7), &cell(5, 4, 9)), Some(cell(3, 6, 7)));
    assert_eq!(joined(&zeros(3, 2), &zeros(6, 4)), None, "a gap");
    assert_eq!(joined(&cell(3, 2, 7), &cell(6, 4, 9)), None, "a gap");
    assert_eq!(joined(&cell(3, 2, 7), &cell(5, 4, 10)), None, "another place in the cell");
    assert_eq!(joined(&zeros(3, 2), &cell(5, 4, 0)), None);
    assert_eq!(joined(&cell(3, 2, 7), &zeros(5, 4)), None);
}

#[test]
fn hashes_are_joined_up_to_a_limit() {
    assert_eq!(joined(&hashes(3, 2), &hashes(5, 4)), Some(hashes(3, 6)));
    assert_eq!(joined(&no_hashes(3, 2), &no_hashes(5, 4)), Some(no_hashes(3, 6)));
    assert_eq!(joined(&hashes(3, 2), &hashes(6, 4)), None, "a gap");
    assert_eq!(joined(&hashes(3, 2), &no_hashes(5, 4)), None);
    assert_eq!(joined(&no_hashes(3, 2), &hashes(5, 4)), None);
    let limit = JOINED_HASHES as u64;
    assert_eq!(joined(&hashes(1, limit - 1), &hashes(limit, 1)), Some(hashes(1, limit)));
    assert_eq!(joined(&hashes(1, limit), &hashes(limit + 1, 1)), None);
}

#[test]
fn only_hashes_are_counted() {
    assert_eq!(cell(3, 2, 7).hashes(), 0);
    assert_eq!(no_hashes(3, 2).hashes(), 0);
    assert_eq!(hashes(3, 2).hashes(), 2);
}
