/// What went wrong in the store. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the database URL cannot be used")]
    Url { source: sqlx::Error },
    #[error("cannot connect to the database")]
    Connect { source: sqlx::Error },
    #[error("the database does not let this user in")]
    Refused { source: sqlx::Error },
    #[error("cannot bring the database schema up to date")]
    Migrate { source: sqlx::migrate::MigrateError },
    #[error("the database failed: {operation}")]
    Query { operation: &'static str, source: sqlx::Error },
    #[error("the database did not answer within {limit:?}: {operation}")]
    TimedOut { operation: &'static str, limit: std::time::Duration },
    #[error("a database task did not finish: {operation}")]
    Task { operation: &'static str, source: tokio::task::JoinError },
    #[error("the database holds a value that this version does not know: {what}")]
    Corrupt { what: String },
    #[error("there is no {noun} {name:?}")]
    NotFound { noun: &'static str, name: String },
    #[error("the machine name {name:?} is taken by another machine")]
    NameTaken { name: String },
    #[error("the machine {name:?} was removed")]
    MachineRemoved { id: uuid::Uuid, name: String },
    #[error("the machine is quarantined: {reason}")]
    MachineQuarantined { reason: String },
    #[error("the machine {name:?} has no agent: it was found in the vault")]
    NoAgent { name: String },
    #[error("the machine works on a job: {job}")]
    MachineBusy { job: uuid::Uuid },
    #[error("the enrolment token is for the machine {name:?}, not for {given:?}")]
    OtherMachine { name: String, given: String },
    #[error("the enrolment token is unknown, expired or used up")]
    TokenRefused,
    #[error("the enrolment token was revoked")]
    TokenRevoked,
    #[error("request id {id} was used before, for another request")]
    RequestReused { id: uuid::Uuid },
    #[error("the job has ended already: {state}")]
    JobEnded { state: &'static str },
    #[error("an API key named {name:?} exists already")]
    KeyNameTaken { name: String },
    #[error("the machine has no disk {name:?}")]
    NoSuchDisk { name: String },
    #[error("the machine would have more than {} labels", super::machine::MAX_LABELS)]
    TooManyLabels,
    #[error("the policy {name:?} was changed by somebody else")]
    PolicyChanged { name: String },
    #[error("the step belongs to another machine")]
    ForeignStep,
    #[error("attempt {attempt} of the step is not current")]
    StaleAttempt { attempt: i64 },
    #[error("the job is being cancelled")]
    Cancelling,
}

/// Names the operation in which a statement failed.
pub(crate) trait During<T> {
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| match source {
            sqlx::Error::ColumnDecode { index, source } => {
                StoreError::Corrupt { what: format!("{index}: {source}") }
            }
            source => StoreError::Query { operation, source },
        })
    }
}

impl StoreError {
    /// Whether a text was refused because Postgres has no such text, such as one with a NUL: the caller's mistake.
    pub(crate) fn is_unstorable_text(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        // character_not_in_repertoire, untranslatable_character
        source
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| matches!(&*code, "22021" | "22P05"))
    }

    /// Whether the database could not be asked at all; asking it for something else would only wait once more.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Tls};

        matches!(
            self,
            Self::TimedOut { .. } | Self::Query { source: Io(_) | Tls(_) | PoolTimedOut | PoolClosed, .. }
        )
    }

    /// The name of the unique or foreign key constraint that a statement broke.
    pub(crate) fn constraint(error: &sqlx::Error) -> Option<&str> {
        error.as_database_error().and_then(|error| error.constraint())
    }
}
