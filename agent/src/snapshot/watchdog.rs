//! The agent's side of the watchdog: a process of its own that freezes and thaws, so that nothing stays frozen whatever
//! becomes of the agent.

mod serve;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::mounts::MountedOn;
use crate::kernel;
pub(crate) use serve::serve;
pub(crate) use wire::MAX_FROZEN;
use wire::{Answer, Ended, Request, Why};

/// The command with which the agent starts itself as its watchdog.
pub(crate) const COMMAND: &str = "watchdog";
/// How long the new process may take until it can be asked.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What the watchdog needs beyond the limit of the freeze to say how it ended.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// How long the agent waits itself for thaws that it has to do in the watchdog's place.
pub(crate) const OWN_THAW_LIMIT: Duration = Duration::from_secs(10);
/// How long the process may take to end when its work is done.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A running watchdog that froze nothing yet.
#[derive(Debug)]
pub(crate) struct Watchdog {
    process: Process,
}

/// File systems that are frozen, for a while. Dropped, they are thawed.
#[derive(Debug)]
pub(crate) struct Frozen<'a> {
    process: Process,
    file_systems: &'a [MountedOn],
    deadline: Instant,
}

/// Why there is no instant at which all of them were frozen. None of them is frozen any more, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezeError {
    #[error("cannot start the watchdog: {0}")]
    Start(io::Error),
    #[error("{} cannot be frozen: {source}", mount_point.display())]
    Refused { mount_point: PathBuf, source: io::Error },
    #[error("the file systems were not frozen, copied and thawed in time")]
    Expired,
    #[error("{} does not answer", mount_point.display())]
    Hanging { mount_point: PathBuf },
    #[error("{} was thawed by something else, or cannot be thawed: {source}", mount_point.display())]
    Lost { mount_point: PathBuf, source: io::Error },
    #[error("the watchdog ended while file systems were frozen: {0}")]
    Gone(io::Error),
}

/// What became of a failed freeze.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: FreezeError,
    pub(crate) remains: Remains,
}

/// Whether something may still be frozen.
#[derive(Debug)]
pub(crate) enum Remains {
    Nothing,
    /// Until this ends, when all of it is thawed.
    UntilEnd(Process),
    /// Neither the watchdog nor the agent could thaw everything.
    Unknown,
}

/// The watchdog as a process, with the socket to it.
#[derive(Debug)]
pub(crate) struct Process {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Watchdog {
    /// Starts one and waits until it can be asked.
    ///
    /// # Errors
    /// If the program cannot be started again, or does not answer.
    pub(crate) fn start() -> Result<Self, FreezeError> {
        Self::spawn().map_err(FreezeError::Start)
    }

    fn spawn() -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child =
            command().stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let process = Process { socket: Some(ours), child };
        match process.receive(Instant::now() + START_LIMIT) {
            Ok(Answer::Ready) => Ok(Self { process }),
            answer => {
                drop(process.end());
                Err(answer.err().unwrap_or_else(|| io::Error::from(io::ErrorKind::InvalidData)))
            }
        }
    }

    /// Freezes all of them, in this order, for at most `limit`.
    ///
    /// # Errors
    /// See [`FreezeError`].
    pub(crate) fn freeze(self, file_systems: &[MountedOn], limit: Duration) -> Result<Frozen<'_>, Failure> {
        let deadline = Instant::now() + limit + ANSWER_GRACE;
        let frozen = Frozen { process: self.process, file_systems, deadline };
        let descriptors: Vec<_> = file_systems.iter().map(|mounted| mounted.file.as_fd()).collect();
        let request = Request::Freeze { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
        let answer = frozen
            .process
            .socket()
            .and_then(|socket| wire::send(socket, &request, &descriptors))
            .and_then(|()| frozen.process.receive(deadline));
        match answer {
            Ok(Answer::Frozen) => Ok(frozen),
            Ok(Answer::Ended(ended)) => Err(frozen.failed(&ended)),
            Ok(Answer::Ready) => Err(frozen.gone(io::Error::from(io::ErrorKind::InvalidData))),
            Err(error) => Err(frozen.gone(error)),
        }
    }
}

impl Frozen<'_> {
    /// Thaws them. Returns for how long they were frozen, without a break until this call.
    ///
    /// # Errors
    /// If the time was up before, or something else thawed them: then what was copied is of no instant.
    pub(crate) fn thaw(self) -> Result<Duration, Failure> {
        // A watchdog that thawed them on its own may be gone; it said so before.
        if let Ok(socket) = self.process.socket() {
            let _ = wire::send(socket, &Request::Thaw, &[]);
        }
        match self.process.receive(self.deadline) {
            Ok(Answer::Ended(ended)) if ended.is_clean() => {
                drop(self.process.end());
                Ok(Duration::from_millis(ended.held_ms))
            }
            Ok(Answer::Ended(ended)) => Err(self.failed(&ended)),
            Ok(_) => Err(self.gone(io::Error::from(io::ErrorKind::InvalidData))),
            Err(error) => Err(self.gone(error)),
        }
    }

    fn failed(self, ended: &Ended) -> Failure {
        let mount_point = |number: usize| {
            self.file_systems.get(number).map(|mounted| mounted.mount_point.clone()).unwrap_or_default()
        };
        let system = io::Error::from_raw_os_error;
        let error = match (ended.why, ended.lost, ended.hanging) {
            (Why::Failed(number, errno), ..) => {
                FreezeError::Refused { mount_point: mount_point(number), source: system(errno) }
            }
            (_, _, Some(number)) => FreezeError::Hanging { mount_point: mount_point(number) },
            (Why::Expired | Why::Abandoned, ..) => FreezeError::Expired,
            (Why::Asked, Some((number, errno)), _) => {
                FreezeError::Lost { mount_point: mount_point(number), source: system(errno) }
            }
            (Why::Asked, None, None) => FreezeError::Gone(io::Error::from(io::ErrorKind::InvalidData)),
        };
        let not_thawed = ended.lost.is_some_and(|(_, errno)| errno != Errno::INVAL.raw_os_error());
        let remains = match self.process.end() {
            Some(process) => Remains::UntilEnd(process),
            None if not_thawed => Remains::Unknown,
            None => Remains::Nothing,
        };
        Failure { error, remains }
    }

    /// The watchdog is dead or broken: the agent does its work.
    fn gone(mut self, error: io::Error) -> Failure {
        let _ = self.process.child.kill();
        let files = self.file_systems.iter().filter_map(|mounted| mounted.file.try_clone().ok()).collect();
        let thawed = thaw_within(files, OWN_THAW_LIMIT);
        let remains = match self.process.end() {
            Some(process) => Remains::UntilEnd(process),
            None if thawed == Thawed::All => Remains::Nothing,
            None => Remains::Unknown,
        };
        Failure { error: FreezeError::Gone(error), remains }
    }
}

impl Ended {
    fn is_clean(&self) -> bool {
        self.why == Why::Asked && self.lost.is_none() && self.hanging.is_none()
    }
}

impl Process {
    fn socket(&self) -> io::Result<&OwnedFd> {
        self.socket.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    fn receive(&self, deadline: Instant) -> io::Result<Answer> {
        wire::receive(self.socket()?, Some(deadline)).map(|(answer, _)| answer)
    }

    /// Lets it end; gives it back if it has something to do still.
    fn end(mut self) -> Option<Self> {
        self.socket = None;
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(self)
    }

    /// Waits until it has ended, however long that takes.
    pub(crate) fn wait(mut self) {
        self.socket = None;
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It thaws and ends when its socket is closed.
        self.socket = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            tracing::warn!(process = self.child.id(), "the watchdog has not ended yet");
        }
    }
}

/// Whether everything is known to be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thawed {
    All,
    NotAll,
}

/// Thaws what these files are on, each in a thread of its own, because a thaw waits for a freeze that hangs.
pub(crate) fn thaw_within(files: Vec<File>, limit: Duration) -> Thawed {
    let (sender, ended) = std::sync::mpsc::channel();
    let count = files.len();
    // The outermost first.
    for file in files.into_iter().rev() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let _ = sender.send(kernel::thaw(file.as_fd()));
        });
    }
    let deadline = Instant::now() + limit;
    let mut thawed = Thawed::All;
    for _ in 0..count {
        match ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(()) | Err(Errno::INVAL)) => {}
            Ok(Err(_)) | Err(_) => thawed = Thawed::NotAll,
        }
    }
    thawed
}

/// This program again, even if its file was replaced meanwhile.
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    #[cfg(not(test))]
    command.arg(COMMAND);
    #[cfg(test)]
    command.args(tests::AS_WATCHDOG);
    command.env_clear();
    #[cfg(test)]
    command.env(tests::IS_WATCHDOG, "1");
    command
}

#[cfg(test)]
mod tests;
