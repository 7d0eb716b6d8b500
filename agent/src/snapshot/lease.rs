//! Read leases (`F_SETLEASE`): while this process holds one, whoever opens the file for writing or truncates it has
//! to wait, at most `/proc/sys/fs/lease-break-time` seconds, until the lease is given up.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Once;

/// Takes a read lease on a file that is open read-only.
///
/// # Errors
/// `WouldBlock` if somebody has it open for writing, `PermissionDenied` if the caller neither owns the file nor has
/// `CAP_LEASE`, `InvalidInput` if the file system has no leases.
pub(crate) fn take(file: &File) -> io::Result<()> {
    ignore_break_signal();
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the lease is held and nobody waits for its end. If so, nobody could write since it was taken.
pub(crate) fn is_held(file: &File) -> bool {
    // SAFETY: F_GETLEASE takes no argument and touches no memory of ours; the descriptor is open.
    let lease = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    lease == libc::F_RDLCK
}

/// Lets a waiting writer go on. Without a lease nothing happens.
pub(crate) fn give_up(file: &File) {
    // SAFETY: as in `take`.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}

/// The kernel announces a waiting writer by SIGIO, whose default is to end the process. The lease is polled instead.
fn ignore_break_signal() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SIG_IGN is a valid disposition for SIGIO, and nothing else in this process handles that signal.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
}
