//! The few system calls that neither std nor rustix offers. Nothing else here: callers stay safe code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};

use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

const FIFREEZE: Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<libc::c_int>(b'X', 120);
const FS_IOC_FIEMAP: Opcode = opcode::read_write::<FiemapHeader>(b'f', 11);
/// Flush what is not allocated yet first, so that it is counted.
const FIEMAP_FLAG_SYNC: u32 = 1;

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;

/// `struct fiemap` without room for extents.
#[repr(C)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// Freezes the file system that this descriptor is on: waits for its writers, writes everything out, and holds every
/// later write until it is thawed. May hang as long as the storage below it hangs.
///
/// # Errors
/// `EBUSY` if it is frozen already, `EOPNOTSUPP` if it cannot be frozen, `EPERM` without `CAP_SYS_ADMIN`.
pub(crate) fn freeze(file_system: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| {
        // SAFETY: FIFREEZE ignores its argument and touches no memory of ours.
        unsafe { ioctl(file_system, IntegerSetter::<FIFREEZE>::new_usize(0)) }
    })
}

/// Lets writers go on.
///
/// # Errors
/// `EINVAL` if it is not frozen.
pub(crate) fn thaw(file_system: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| {
        // SAFETY: FITHAW ignores its argument and touches no memory of ours.
        unsafe { ioctl(file_system, IntegerSetter::<FITHAW>::new_usize(0)) }
    })
}

/// Number of extents that the file is made of; what was written to it so far is allocated first.
///
/// # Errors
/// Of the file system; `EOPNOTSUPP` if it cannot tell.
pub(crate) fn extent_count(file: &File) -> io::Result<u32> {
    let mut map = FiemapHeader {
        start: 0,
        length: u64::MAX,
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: 0,
        reserved: 0,
    };
    // SAFETY: the kernel reads and writes one `struct fiemap`, which this is; with an extent count of zero it writes
    // nothing behind it.
    unsafe { ioctl(file.as_fd(), Updater::<FS_IOC_FIEMAP, FiemapHeader>::new(&mut map)) }?;
    Ok(map.mapped_extents)
}

/// Writes out what the page cache has of a file or block device, and waits for that. The device's own cache is not flushed.
///
/// # Errors
/// Of the device.
pub(crate) fn write_out(file: &File) -> io::Result<()> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it takes numbers only; the descriptor is open. A length of 0 is everything.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the signals that end a process by default pass by, for the rest of the life of this process.
pub(crate) fn ignore_termination() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE] {
        // SAFETY: SIG_IGN is a valid disposition for each of them; nothing of ours handles them in this process.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Closes every descriptor from 3 on but this one: what this process inherited and knows nothing of. To be called before
/// anything else is open. Kernels before 5.9 cannot do that; then they stay open.
pub(crate) fn close_all_but(descriptor: BorrowedFd<'_>) {
    let kept = u32::try_from(descriptor.as_raw_fd()).unwrap_or(u32::MAX);
    let close_range = |first: u32, last: u32| {
        if first <= last {
            // SAFETY: it takes numbers only. Nothing in this process owns these descriptors: the caller says so.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    close_range(3, kept.saturating_sub(1));
    close_range(kept.saturating_add(1), u32::MAX);
}

/// Gives the started program this descriptor, which is closed on exec otherwise: a script is opened by its
/// interpreter again. Other children do not get it.
pub(crate) fn pass_descriptor(command: &mut tokio::process::Command, descriptor: RawFd) {
    let keep = move || {
        // SAFETY: the caller's descriptor was open when the process forked.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec only fcntl runs, which is async-signal-safe; nothing is allocated or locked.
    unsafe { command.pre_exec(keep) };
}

/// While it lives, this thread's disk reads wait until nobody else's do. Advice only: not every scheduler follows it.
#[derive(Debug)]
pub(crate) struct IdleIo {
    before: libc::c_long,
}

impl IdleIo {
    pub(crate) fn begin() -> Self {
        // SAFETY: ioprio_get and ioprio_set take numbers only; 0 is the calling thread.
        let before = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
        set_io_priority(libc::c_long::from(IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT));
        Self { before }
    }
}

impl Drop for IdleIo {
    fn drop(&mut self) {
        // Threads of a pool go on to other work.
        if self.before >= 0 {
            set_io_priority(self.before);
        }
    }
}

fn set_io_priority(priority: libc::c_long) {
    // SAFETY: as in `begin`.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
}
