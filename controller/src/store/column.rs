//! How the domain's states are read from their columns.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, Postgres, Type};

use crate::domain::job::{AttemptOutcome, Consistency, JobState, StepKind, StepState};
use crate::domain::point::{LockMode, PointState};
use crate::domain::token::TokenState;

macro_rules! read_from_text {
    ($($name:ty),+ $(,)?) => {$(
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }

            fn compatible(column: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(column)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                let text = <String as Decode<'_, Postgres>>::decode(value)?;
                Self::parse(&text).ok_or_else(|| format!("{text:?} is no {}", stringify!($name)).into())
            }
        }
    )+};
}

read_from_text!(AttemptOutcome, Consistency, JobState, LockMode, PointState, StepKind, StepState, TokenState);
