//! What the agent and its watchdog say to each other: one packet per message, over a socket pair that no one else has.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most file systems that one snapshot freezes.
pub(crate) const MAX_FROZEN: usize = 64;
const MAX_MESSAGE_BYTES: usize = 4096;

/// What the agent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Freeze the file systems that come with it, in their order.
    Freeze { limit_ms: u64 },
    /// The clones are made.
    Thaw,
}

/// What the watchdog answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It can be asked.
    Ready,
    /// All of them are frozen.
    Frozen,
    /// They are thawed, or will be as soon as the kernel lets them.
    Ended(Ended),
}

/// How a freeze ended. Numbers name file systems in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// From the first call to freeze to the last thaw, in milliseconds.
    pub(super) held_ms: u64,
    pub(super) why: Why,
    /// Was not frozen any more when it was to be thawed, or could not be thawed: with the error's number.
    pub(super) lost: Option<(usize, i32)>,
    /// Does not answer yet. The watchdog stays until it is thawed.
    pub(super) hanging: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Why {
    /// The agent said so in time.
    Asked,
    /// The time was up first.
    Expired,
    /// One of them could not be frozen: with the error's number.
    Failed(usize, i32),
    /// The agent is gone.
    Abandoned,
}

/// Sends a message, with descriptors.
///
/// # Errors
/// If the other side is gone.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FROZEN))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message.
///
/// # Errors
/// `TimedOut`, `UnexpectedEof` if the other side is gone, `InvalidData` for nonsense.
pub(super) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
    deadline: Option<Instant>,
) -> io::Result<(M, Vec<OwnedFd>)> {
    wait_readable(socket.as_fd(), deadline)?;
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FROZEN))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if received.bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let descriptors = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    Ok((serde_json::from_slice(&bytes[..received.bytes])?, descriptors))
}

fn wait_readable(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if left == Some(Duration::ZERO) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
