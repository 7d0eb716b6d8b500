//! What was done to the map in force, in order, so that tests can leave it as a power cut would.

use std::cell::RefCell;

#[derive(Debug, Clone)]
pub(in crate::transfer) enum Op {
    Write(u64, Vec<u8>),
    Cut(u64),
    Sync,
}

thread_local! {
    static OPS: RefCell<Vec<Op>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn note(op: Op) {
    OPS.with_borrow_mut(|ops| ops.push(op));
}

/// What this thread did since the last call.
pub(in crate::transfer) fn take() -> Vec<Op> {
    OPS.take()
}
