//! The watchdog's own process. It freezes, and it thaws: when it is asked, when the time is up, or when the agent is
//! gone. It touches no file once it has begun.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::MlockAllFlags;

use super::wire::{Answer, Ended, Request, Why, receive, send};
use crate::config::FREEZE_LIMIT_MAX;
use crate::kernel;

/// How long file systems have to thaw until the agent is told that one does not answer.
const THAW_PATIENCE: Duration = Duration::from_secs(2);
/// A thaw that fails for another reason than that there is nothing to thaw is tried again so often.
const THAW_TRIES: u32 = 50;
const THAW_PAUSE: Duration = Duration::from_millis(100);
/// Little, because all of it is locked into memory.
const STACK_BYTES: usize = 128 << 10;

/// Serves one agent, whose socket is standard input, for one freeze.
pub(crate) fn serve() -> ExitCode {
    match detach().and_then(watch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Leaves nothing shared with the agent but the socket.
fn detach() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    // The agent passes on nothing else, but whoever started the agent may have.
    kernel::close_all_but(socket.as_fd());
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // A signal to the agent's group, or to all processes of its service, must not end the one that thaws.
    kernel::ignore_termination();
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    // Without the right to it, pages of this program may have to be read again: not from what is frozen, as a rule.
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    Ok(socket)
}

enum Event {
    /// The result of a freeze.
    Froze(usize, Result<(), Errno>),
    Thawed(usize, Result<(), Errno>),
    Asked(Request),
    Gone,
}

/// One thread per file system: a freeze that hangs stops no other thaw, and is followed by its own thaw whenever it
/// returns.
struct Freezer {
    go: Option<Sender<()>>,
    /// Dropped, or a word on it: thaw.
    release: Option<Sender<()>>,
    thread: JoinHandle<()>,
}

impl Freezer {
    fn start(number: usize, file_system: OwnedFd, events: Sender<Event>) -> io::Result<Self> {
        let (go, started) = channel::<()>();
        let (release, released) = channel::<()>();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            if started.recv().is_err() {
                return;
            }
            let frozen = kernel::freeze(file_system.as_fd());
            let _ = events.send(Event::Froze(number, frozen));
            let _ = released.recv();
            // What somebody else froze is not ours to thaw.
            let thawed = if frozen.is_ok() { thaw(&file_system) } else { Ok(()) };
            let _ = events.send(Event::Thawed(number, thawed));
        })?;
        Ok(Self { go: Some(go), release: Some(release), thread })
    }
}

fn thaw(file_system: &OwnedFd) -> Result<(), Errno> {
    let mut tries = 1;
    loop {
        match kernel::thaw(file_system.as_fd()) {
            Err(errno) if errno != Errno::INVAL && tries < THAW_TRIES => {
                tries += 1;
                std::thread::sleep(THAW_PAUSE);
            }
            ended => return ended,
        }
    }
}

fn watch(socket: OwnedFd) -> io::Result<()> {
    let socket = Arc::new(socket);
    send(&*socket, &Answer::Ready, &[])?;
    let (request, file_systems) = receive(&*socket, None)?;
    let Request::Freeze { limit_ms } = request else { return Ok(()) };
    let (sender, events) = channel();
    let mut freezers: Vec<Freezer> = file_systems
        .into_iter()
        .enumerate()
        .map(|(number, file_system)| Freezer::start(number, file_system, sender.clone()))
        .collect::<io::Result<_>>()?;
    listen(Arc::clone(&socket), sender)?;

    let began = Instant::now();
    let deadline = began + Duration::from_millis(limit_ms).min(FREEZE_LIMIT_MAX);
    let why = freeze_all(&mut freezers, &events, deadline).map_or_else(
        |why| why,
        |()| {
            // If nobody hears it, the thread that listens tells us.
            let _ = send(&*socket, &Answer::Frozen, &[]);
            match next(&events, deadline) {
                Some(Event::Asked(Request::Thaw)) => Why::Asked,
                None => Why::Expired,
                Some(_) => Why::Abandoned,
            }
        },
    );
    let (lost, hanging) = thaw_all(&mut freezers, &events);
    let held_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    // An agent that is gone does not read it.
    let _ = send(&*socket, &Answer::Ended(Ended { held_ms, why, lost, hanging }), &[]);
    drop(socket);
    // What hangs is thawed by its own thread; until then this process has to stay.
    for freezer in freezers {
        let _ = freezer.thread.join();
    }
    Ok(())
}

/// Turns what comes from the agent, and its end, into events.
fn listen(socket: Arc<OwnedFd>, events: Sender<Event>) -> io::Result<()> {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        while let Ok((request, _)) = receive(&*socket, None) {
            if events.send(Event::Asked(request)).is_err() {
                return;
            }
        }
        let _ = events.send(Event::Gone);
    })?;
    Ok(())
}

/// One after the other, in the order that was asked for: what lies inside must be frozen first.
fn freeze_all(freezers: &mut [Freezer], events: &Receiver<Event>, deadline: Instant) -> Result<(), Why> {
    for freezer in freezers {
        if let Some(go) = freezer.go.take() {
            let _ = go.send(());
        }
        match next(events, deadline) {
            Some(Event::Froze(_, Ok(()))) => {}
            Some(Event::Froze(number, Err(errno))) => return Err(Why::Failed(number, errno.raw_os_error())),
            None => return Err(Why::Expired),
            Some(Event::Asked(_) | Event::Gone | Event::Thawed(..)) => return Err(Why::Abandoned),
        }
    }
    Ok(())
}

/// Lets all go, the outermost first: what lies inside writes to it when it thaws.
fn thaw_all(freezers: &mut [Freezer], events: &Receiver<Event>) -> (Option<(usize, i32)>, Option<usize>) {
    let mut waiting = Vec::new();
    for (number, freezer) in freezers.iter_mut().enumerate().rev() {
        if freezer.go.take().is_none() {
            waiting.push(number);
        }
        freezer.release.take();
    }
    let patience = Instant::now() + THAW_PATIENCE;
    let mut lost = None;
    while !waiting.is_empty() {
        match next(events, patience) {
            Some(Event::Thawed(number, thawed)) => {
                waiting.retain(|other| *other != number);
                lost = lost.or(thawed.err().map(|errno| (number, errno.raw_os_error())));
            }
            Some(_) => {}
            None => break,
        }
    }
    (lost, waiting.pop())
}

/// The next event; `None` if there is none until then.
fn next(events: &Receiver<Event>, deadline: Instant) -> Option<Event> {
    match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        // Cannot be: the thread that listens has a sender as long as it did not say that the agent is gone.
        Err(RecvTimeoutError::Disconnected) => Some(Event::Gone),
    }
}
