//! Processes whose requests reach the storage one at a time, in an order that a test chooses: so what is random is so by a seed.

use std::future::{pending, ready};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::image::Random;
use super::paced::{Kind, Pace, Request};

/// The requests of one process. As long as nothing is run in it, they pass.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    is_running: bool,
    /// One that dies answers nobody any more.
    dying: Dying,
    waiting: Vec<Waiting>,
    is_at_storage: bool,
    random: Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dying {
    No,
    /// With the next request at the storage: nobody hears of the answer.
    Next,
    Dead,
}

#[derive(Debug)]
struct Waiting {
    turn: oneshot::Sender<()>,
    /// It is worth a pause once in so many times: for some, much depends on what came before.
    rest: usize,
}

/// Says that a task has ended, however it did.
struct Ends(Turns);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.state().is_running = false;
        self.0.0.changed.notify_one();
    }
}

impl Turns {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            is_running: false,
            dying: Dying::No,
            waiting: Vec::new(),
            is_at_storage: false,
            random: Random(seed),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Runs this until its first request.
    pub(crate) async fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.state().is_running = true;
        let ends = Ends(self.clone());
        let task = tokio::spawn(async move {
            work.await;
            drop(ends);
        });
        self.settle().await;
        task
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state().is_running
    }

    /// Lets one request through, and everything that follows, until the next one. Answers whether the process is to pause before that.
    pub(crate) async fn turn(&self) -> bool {
        {
            let mut state = self.state();
            let state = &mut *state;
            if !state.waiting.is_empty() {
                let next = state.random.below(state.waiting.len());
                state.is_at_storage = state.waiting.swap_remove(next).turn.send(()).is_ok();
            }
        }
        self.settle().await;
        let mut state = self.state();
        let rest = state.waiting.iter().map(|waiting| waiting.rest).min();
        rest.is_some_and(|rest| state.random.below(rest) == 0)
    }

    /// The process dies as its next request reaches the storage.
    pub(crate) async fn die_with_next(&self) {
        self.state().dying = Dying::Next;
        self.turn().await;
        self.die();
    }

    /// No request of the process reaches the storage any more.
    pub(crate) fn die(&self) {
        let mut state = self.state();
        state.dying = Dying::Dead;
        state.waiting.clear();
    }

    /// Returns when nothing goes on without a turn.
    async fn settle(&self) {
        let is_settled = || {
            let mut state = self.state();
            state.waiting.retain(|waiting| !waiting.turn.is_closed());
            let goes_on = state.is_running && state.waiting.is_empty() && state.dying != Dying::Dead;
            !state.is_at_storage && !goes_on
        };
        let wait = async {
            while !is_settled() {
                self.0.changed.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(24 * 3600), wait).await.expect("a process hangs");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl Pace for Turns {
    fn before(&self, request: Request<'_>) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        if state.dying == Dying::Dead {
            return pending().boxed();
        }
        if !state.is_running {
            return ready(()).boxed();
        }
        let (turn, wait) = oneshot::channel();
        let rest = match request.kind {
            Kind::Delete => 2,
            Kind::Put if request.name.starts_with("open/") || request.name.ends_with(".set") => 2,
            Kind::Put if !request.name.starts_with("seg/") => 3,
            Kind::List => 20,
            Kind::Put | Kind::Get => 200,
        };
        state.waiting.push(Waiting { turn, rest });
        self.0.changed.notify_one();
        async move {
            if wait.await.is_err() {
                pending::<()>().await;
            }
        }
        .boxed()
    }

    fn after(&self) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        state.is_at_storage = false;
        if state.dying == Dying::Next {
            state.dying = Dying::Dead;
        }
        self.0.changed.notify_one();
        if state.dying == Dying::Dead { pending().boxed() } else { ready(()).boxed() }
    }

    fn page_end(&self, names: usize) -> Option<usize> {
        let mut state = self.state();
        (state.is_running && names > 1 && state.random.below(4) == 0)
            .then(|| 1 + state.random.below(names - 1))
    }
}
