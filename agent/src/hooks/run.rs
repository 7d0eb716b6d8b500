//! Runs a program to its end or its time limit, in a process group of its own, and listens to it all the time.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{HookError, Program};
use crate::kernel;

/// How much of what it said last is kept.
const OUTPUT_BYTES: usize = 4096;
/// How much of that goes into an error.
const QUOTED_BYTES: usize = 1024;
/// From SIGTERM to SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// How long something that the program left running is listened to.
const LAST_WORDS: Duration = Duration::from_millis(200);
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// Runs it with this environment and nothing else.
///
/// # Errors
/// See [`HookError`]; what it started in its process group is killed if it was stopped.
pub(super) async fn run<const N: usize>(
    program: &Program,
    environment: [(&str, OsString); N],
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), HookError> {
    let (hook, path) = (program.hook(), program.path().to_owned());
    tracing::info!(hook = hook.name(), path = %path.display(), "hook starts");
    let (mut group, mut voice) = start(program, environment).map_err(|source| HookError::Start {
        hook,
        path: path.clone(),
        source,
    })?;
    let mut output = Tail::default();
    let end = {
        let ended = listen_until_end(&mut group.child, &mut voice, &mut output);
        tokio::select! {
            status = ended => End::Status(status),
            () = tokio::time::sleep(limit) => End::TimedOut,
            () = stop.cancelled() => End::Stopped,
        }
    };
    if !matches!(end, End::Status(_)) {
        group.stop(&mut voice, &mut output).await;
    }
    group.done = true;
    let text = output.text();
    if !text.is_empty() {
        tracing::info!(hook = hook.name(), output = text, dropped_bytes = output.dropped, "hook said");
    }
    let quoted = output.end(QUOTED_BYTES);
    match end {
        End::Status(Ok(status)) if status.success() => Ok(()),
        End::Status(Ok(status)) => Err(HookError::Failed { hook, path, status, output: quoted }),
        End::Status(Err(source)) => Err(HookError::Start { hook, path, source }),
        End::TimedOut => Err(HookError::TimedOut { hook, path, limit, output: quoted }),
        End::Stopped => Err(HookError::Stopped { hook }),
    }
}

enum End {
    Status(io::Result<std::process::ExitStatus>),
    TimedOut,
    Stopped,
}

fn start<const N: usize>(
    program: &Program,
    environment: [(&str, OsString); N],
) -> io::Result<(Group, Receiver)> {
    let (reader, writer) = io::pipe()?;
    let file = program.try_clone()?;
    let descriptor = file.as_raw_fd();
    let mut command = Command::new(format!("/proc/self/fd/{descriptor}"));
    command
        .arg0(program.path())
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    kernel::pass_descriptor(&mut command, descriptor);
    let child = command.spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let id = id.ok_or_else(|| io::Error::other("it has no process id"))?;
    // `command` holds the writing end, and would keep the pipe from ending.
    drop(command);
    Ok((Group { child, id, done: false }, Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

/// A program with everything that it started in its group. Dropped before its end, all of that is killed.
struct Group {
    child: Child,
    id: Pid,
    done: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.done {
            let _ = kill_process_group(self.id, Signal::KILL);
        }
    }
}

impl Group {
    /// Asks all of them to end, and ends those that do not.
    async fn stop(&mut self, voice: &mut Receiver, output: &mut Tail) {
        let _ = kill_process_group(self.id, Signal::TERM);
        let deadline = Instant::now() + KILL_AFTER;
        // Not collected before the last kill: until then nobody else can get the number of the group.
        while Instant::now() < deadline && !self.leader_ended() {
            let _ = tokio::time::timeout(POLL_PERIOD, output.read(voice)).await;
            tokio::time::sleep(POLL_PERIOD).await;
        }
        let _ = kill_process_group(self.id, Signal::KILL);
        // One that hangs in the kernel ends whenever it can.
        let _ = tokio::time::timeout(KILL_AFTER, self.child.wait()).await;
    }

    fn leader_ended(&self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.id), how), Ok(None))
    }
}

/// A pipe that nobody empties would stop the program in the middle of a sentence.
async fn listen_until_end(
    child: &mut Child,
    voice: &mut Receiver,
    output: &mut Tail,
) -> io::Result<std::process::ExitStatus> {
    let mut silent = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            read = output.read(voice), if !silent => silent = !read,
        }
    };
    let rest = async { while !silent && output.read(voice).await {} };
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    status
}

/// The end of what was said.
#[derive(Default)]
struct Tail {
    kept: Vec<u8>,
    dropped: u64,
}

impl Tail {
    /// Reads what there is; `false` at the end.
    async fn read(&mut self, voice: &mut Receiver) -> bool {
        let mut buffer = vec![0; 16 << 10];
        match voice.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.kept.extend_from_slice(&buffer[..length]);
                let excess = self.kept.len().saturating_sub(OUTPUT_BYTES);
                self.kept.drain(..excess);
                self.dropped += excess as u64;
                true
            }
        }
    }

    fn text(&self) -> String {
        self.end(OUTPUT_BYTES)
    }

    fn end(&self, bytes: usize) -> String {
        let from = self.kept.len().saturating_sub(bytes);
        String::from_utf8_lossy(&self.kept[from..]).trim().to_owned()
    }
}
