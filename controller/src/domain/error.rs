use serde::{Deserialize, Serialize};

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    User,
    System,
    Agent,
}

/// Why an attempt or a job failed, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobError {
    pub(crate) code: String,
    pub(crate) fault: Fault,
    pub(crate) retryable: bool,
    pub(crate) message: String,
    pub(crate) action: String,
}

impl JobError {
    /// The attempt's agent was not heard of in time, or restarted.
    pub(crate) fn agent_lost() -> Self {
        Self {
            code: "agent_lost".to_owned(),
            fault: Fault::Agent,
            retryable: true,
            message: "the agent was lost while it worked on this step".to_owned(),
            action: "check that the machine runs and that its agent can reach the controller".to_owned(),
        }
    }

    /// A warning, given when the backup begins: nothing is built on a damaged point. `damage`: what of it is known.
    pub(crate) fn full_after_damage(machine: &str, point: &str, damage: Option<&str>) -> Self {
        let known = damage.map_or_else(String::new, |damage| format!(" (so far it is known that {damage})"));
        Self {
            code: "full_after_damage".to_owned(),
            fault: Fault::System,
            retryable: false,
            // The same at each try of a step, so that it is added once.
            message: format!(
                "the newest point, {point}, is damaged: this backup is a full one, not built on it"
            ),
            action: format!(
                "`holdfast vault check --machine {machine} --read-data` names the disks and bytes of it that are damaged{known}; restore another \
                 point, or put back from a copy what it names, and see whether the vault's disks are failing"
            ),
        }
    }

    /// Its agent is there, and nothing gets on.
    pub(crate) fn no_progress() -> Self {
        Self {
            code: "no_progress".to_owned(),
            fault: Fault::Agent,
            // What hangs on the machine would keep the next attempt waiting.
            retryable: false,
            message: "the agent is connected, but got no further with this step".to_owned(),
            action:
                "see in the kernel's log whether a disk of the machine hangs, and in the agent's what it does"
                    .to_owned(),
        }
    }

    pub(crate) fn cancelled() -> Self {
        Self {
            code: "cancelled".to_owned(),
            fault: Fault::User,
            retryable: false,
            message: "an operator cancelled the job".to_owned(),
            action: String::new(),
        }
    }

    pub(crate) fn machine_removed() -> Self {
        Self {
            code: "machine_removed".to_owned(),
            fault: Fault::User,
            retryable: false,
            message: "the machine was removed before the job ended".to_owned(),
            action: String::new(),
        }
    }

    pub(crate) fn overlap() -> Self {
        Self {
            code: "overlap".to_owned(),
            fault: Fault::System,
            retryable: false,
            message: "an earlier backup of the same policy was still waiting or running".to_owned(),
            action: "if this happens again and again, give the policy a longer period".to_owned(),
        }
    }

    pub(crate) fn expired() -> Self {
        Self {
            code: "expired".to_owned(),
            fault: Fault::Agent,
            retryable: true,
            message: "the job was not started in time: the machine's agent was not connected, or busy"
                .to_owned(),
            action: "bring the machine online and start the backup again".to_owned(),
        }
    }

    pub(crate) fn unconfirmed_point() -> Self {
        Self {
            code: "transfer_unconfirmed".to_owned(),
            fault: Fault::System,
            retryable: true,
            message: "the agent reported a point that the catalogue does not have of this attempt".to_owned(),
            action: "it is tried again by itself; if it stays so, look at the logs of agent and controller"
                .to_owned(),
        }
    }

    /// All disks were asked for, and fewer are there than were.
    pub(crate) fn disk_missing(names: &[String]) -> Self {
        Self {
            code: "disk_missing".to_owned(),
            fault: Fault::User,
            retryable: false,
            message: format!("the point lacks what the machine's last point of all disks has: {}", names.join(", ")),
            action: "attach what is missing, and see that `holdfast machine show` lists it; if it is gone for good, there is nothing to do"
                .to_owned(),
        }
    }

    pub(crate) fn wrong_report() -> Self {
        Self {
            code: "wrong_report".to_owned(),
            fault: Fault::Agent,
            retryable: false,
            message:
                "the agent's report of the step's end is of another kind of step, or not to be understood"
                    .to_owned(),
            action: "upgrade the agent to the controller's version".to_owned(),
        }
    }
}
