//! Whoever believes a length from the network or the storage asks for too much memory; libFuzzer's own limit for one
//! allocation needs a sanitizer.

use std::alloc::{GlobalAlloc, Layout, System};

/// No decoder needs more at once for the inputs of these targets, in bytes.
const MOST_AT_ONCE: usize = 64 << 20;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

// SAFETY: all of it is the system's allocator.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as for the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check(new_size);
        // SAFETY: as for the caller.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn check(size: usize) {
    if size > MOST_AT_ONCE {
        // Not a panic: nothing here may allocate.
        let _ =
            std::io::Write::write_all(&mut std::io::stderr(), b"more than 64 MiB are allocated at once\n");
        std::process::abort();
    }
}
