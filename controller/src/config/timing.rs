use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, duration};

const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Every period and patience of the controller.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timing {
    /// How often agents are to say that they live.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) heartbeat: Duration,
    /// How long an agent may be silent before its attempts are given to others; also the lease of an attempt, and for how
    /// long after its own start a controller declares nobody lost.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) agent_lost_after: Duration,
    /// How long a step may wait for an agent that is away.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) give_up_after: Duration,
    /// How long an attempt may get no further although its agent is there, whatever it does: hooks, a gateway that does not
    /// answer, and a commit that takes long have to fit in.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) stalled_after: Duration,
    /// How long an older session has to answer before a newer one of the same agent takes its place.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) clone_ping: Duration,
    /// Between two looks for steps that are ready.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) dispatch: Duration,
    /// Between two looks at the policies' schedules.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) schedule: Duration,
    /// Between two writes of progress.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) progress_flush: Duration,
    /// Between two writes of who is alive.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) liveness_flush: Duration,
    /// Between two comparisons of the catalogue with the vault.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) resolve: Duration,
    /// Within this time everything that points need is read and compared once, gently.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) verify: Duration,
    /// Life of an agent's certificate: also how long a machine may be switched off and come back without enrolling again.
    /// Revocation does not wait for it, every call asks the database.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) certificate_lifetime: Duration,
    /// Before a failed step is tried again.
    #[serde(deserialize_with = "duration::deserialize")]
    pub(crate) retry_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            heartbeat: seconds(15),
            agent_lost_after: seconds(60),
            give_up_after: seconds(24 * 3600),
            stalled_after: seconds(6 * 3600),
            clone_ping: seconds(5),
            dispatch: seconds(1),
            schedule: seconds(1),
            progress_flush: seconds(2),
            liveness_flush: seconds(10),
            resolve: seconds(30),
            verify: seconds(30 * 24 * 3600),
            certificate_lifetime: seconds(30 * 24 * 3600),
            retry_delay: seconds(10),
        }
    }
}

impl Timing {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let all = [
            ("heartbeat", self.heartbeat),
            ("agent_lost_after", self.agent_lost_after),
            ("give_up_after", self.give_up_after),
            ("stalled_after", self.stalled_after),
            ("clone_ping", self.clone_ping),
            ("dispatch", self.dispatch),
            ("schedule", self.schedule),
            ("progress_flush", self.progress_flush),
            ("liveness_flush", self.liveness_flush),
            ("resolve", self.resolve),
            ("verify", self.verify),
            ("certificate_lifetime", self.certificate_lifetime),
            ("retry_delay", self.retry_delay),
        ];
        for (name, value) in all {
            if value.is_zero() || value > LONGEST {
                return Err(ConfigError::Timing { name, rule: "more than zero and at most 366 days" });
            }
        }
        // A heartbeat that is lost once must not cost an attempt.
        if self.agent_lost_after < self.heartbeat * 2 {
            return Err(ConfigError::Timing {
                name: "agent_lost_after",
                rule: "at least twice the heartbeat",
            });
        }
        if self.agent_lost_after <= self.liveness_flush {
            return Err(ConfigError::Timing { name: "agent_lost_after", rule: "longer than liveness_flush" });
        }
        if self.certificate_lifetime < Duration::from_secs(1) {
            return Err(ConfigError::Timing { name: "certificate_lifetime", rule: "at least a second" });
        }
        Ok(())
    }
}
