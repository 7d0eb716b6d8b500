use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::{Limits, Timing};
use crate::live::Sessions;
use crate::pki::Ca;
use crate::store::Store;

/// What every part of a running controller shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) ca: Ca,
    pub(crate) sessions: Sessions,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) vault_id: Uuid,
    /// Random per process: which controller holds a session or a lease.
    pub(crate) controller_id: Uuid,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

impl App {
    pub(crate) fn new(store: Store, ca: Ca, timing: Timing, limits: Limits, vault_id: Uuid) -> Arc<Self> {
        Arc::new(Self {
            store,
            ca,
            sessions: Sessions::new(),
            timing,
            limits,
            vault_id,
            controller_id: Uuid::new_v4(),
            shutdown: CancellationToken::new(),
            tracker: TaskTracker::new(),
        })
    }
}

/// A place where the fault tests end the process; nothing in a build without the feature `failpoints`.
pub(crate) fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
    let _ = name;
}
