//! The watchdog as the program that is installed: what it shares with the agent, and what ends it.

#![allow(clippy::unwrap_used)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::{Pid, Signal, getsid, kill_process};

struct Watchdog {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Watchdog {
    fn start() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"))
            .arg("watchdog")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut buffer = [MaybeUninit::uninit(); 64];
        let ((message, _), _) = recv(ours.as_fd(), &mut buffer, RecvFlags::empty()).unwrap();
        assert_eq!(message, b"\"Ready\"");
        Self { child, socket: Some(ours) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_shares_nothing_with_the_agent_but_a_socket() {
    let watchdog = Watchdog::start();
    let process = format!("/proc/{}", watchdog.child.id());
    assert_eq!(getsid(Some(watchdog.pid())).unwrap(), watchdog.pid(), "it is in the agent's session");
    assert_eq!(std::fs::read_link(format!("{process}/cwd")).unwrap().to_str(), Some("/"));
    let mut open: Vec<String> = std::fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned())
        .collect();
    open.sort();
    assert_eq!(open.len(), 4, "{open:?}");
    assert_eq!(open[..3], ["/dev/null", "/dev/null", "/dev/null"]);
    assert!(open[3].starts_with("socket:"), "{open:?}");
}

#[test]
fn signals_do_not_end_it_and_the_end_of_the_agent_does() {
    let mut watchdog = Watchdog::start();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        kill_process(watchdog.pid(), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(watchdog.child.try_wait().unwrap().is_none(), "a signal ended it");
    watchdog.socket = None;
    let began = Instant::now();
    while watchdog.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "it outlived its agent");
        std::thread::sleep(Duration::from_millis(10));
    }
}
