//! How long anything waits here. Postgres itself waits for ever: for a lock, for a client that is gone, for whoever holds a
//! lock and is gone.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// Whatever a controller that died held is free again after `statement` and `peer` at the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For a statement to end.
    pub(crate) statement: Duration,
    /// For a lock; whoever waits for longer fails, and is tried again by whoever called it.
    pub(crate) lock: Duration,
    /// For the next statement of a transaction that is open: a controller that was stopped in the middle holds its machines' slots.
    pub(crate) idle_in_transaction: Duration,
    /// For a sign of life of the other end of a connection.
    pub(crate) peer: Duration,
    /// For a whole transaction, by this side's clock: a database that vanished answers nothing, not even that it is gone.
    pub(crate) transaction: Duration,
    /// For a connection to be as good as new, before it is closed instead.
    pub(crate) release: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            statement: seconds(30),
            lock: seconds(15),
            idle_in_transaction: seconds(20),
            peer: seconds(30),
            transaction: seconds(60),
            release: seconds(5),
        }
    }
}

/// The parts of the wait for a peer: silence, and then so many probes.
const PROBES: u32 = 4;

impl Waits {
    /// Has Postgres wait no longer than this.
    pub(super) fn bound(&self, options: PgConnectOptions) -> PgConnectOptions {
        self.notice_dead_peers(options).options([
            ("statement_timeout", self.statement.as_millis()),
            ("lock_timeout", self.lock.as_millis()),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction.as_millis()),
        ])
    }

    /// What holds of migrations too, which may take long, and wait for those of another controller.
    pub(super) fn notice_dead_peers(&self, options: PgConnectOptions) -> PgConnectOptions {
        let half = self.peer / 2;
        options.options([
            ("tcp_keepalives_idle", u128::from(half.as_secs().max(1))),
            ("tcp_keepalives_interval", u128::from((half / PROBES).as_secs().max(1))),
            ("tcp_keepalives_count", u128::from(PROBES)),
            ("tcp_user_timeout", self.peer.as_millis()),
        ])
    }
}
