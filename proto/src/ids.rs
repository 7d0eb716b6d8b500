//! Ids, one type per noun, so that the id of a job cannot be handed over as that of a step.

use std::fmt;
use std::str::FromStr;

use tonic::Status;
use uuid::Uuid;

use crate::error::{ErrorDetailExt as _, user_error};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new id (UUID v7: later ids sort later).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads an id from a message field.
            ///
            /// # Errors
            /// INVALID_ARGUMENT if the text is no UUID.
            #[allow(clippy::result_large_err)]
            pub fn from_wire(text: &str) -> Result<Self, Status> {
                text.parse().map_err(|_| {
                    user_error("invalid_id", format!(concat!("{:?} is not the id of a ", $noun), text))
                        .action(concat!("write the whole id of the ", $noun, ", as the lists show it"))
                        .into_status(tonic::Code::InvalidArgument)
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($noun, ":{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(/// A machine under management.
    MachineId, "machine");
id!(/// An enrolled agent.
    AgentId, "agent");
id!(JobId, "job");
id!(StepId, "step");
id!(/// A recovery point.
    PointId, "point");
id!(/// A snapshot that an agent holds.
    SnapshotId, "snapshot");
