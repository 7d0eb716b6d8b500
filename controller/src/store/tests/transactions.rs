use std::time::Duration;

use crate::store::{During as _, StoreError};

use super::{machines, store};

/// gRPC drops handlers whose client is gone. Dropping the caller of a transaction at any moment must leave neither half an
/// effect nor a connection that is still in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_caller_poisons_no_connection() {
    let Some(store) = store().await else { return };
    for round in 0..200_u64 {
        let call = store.transaction("test", move |connection| {
            Box::pin(async move {
                for half in ["a", "b"] {
                    sqlx::query("INSERT INTO audit (actor, action, subject) VALUES ('test', $1, $2)")
                        .bind(half)
                        .bind(round.to_string())
                        .execute(&mut *connection)
                        .await
                        .during("test")?;
                }
                Ok::<_, StoreError>(())
            })
        });
        let _ = tokio::time::timeout(Duration::from_micros(round * 20), call).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (halves,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM (SELECT subject FROM audit WHERE actor = 'test' GROUP BY subject HAVING count(*) <> 2) h",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!(halves, 0);
    let (open,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&store.pool)
    .await
    .unwrap();
    assert_eq!(open, 0, "a connection came back inside a transaction");
}

#[tokio::test]
async fn a_token_is_used_so_often_and_no_more() {
    let Some(store) = store().await else { return };
    let made = machines(&store, uuid::Uuid::new_v4(), 2).await;
    assert_eq!(made.len(), 2);
    let (uses, max): (i32, i32) =
        sqlx::query_as("SELECT uses, max_uses FROM enrolment_tokens").fetch_one(&store.pool).await.unwrap();
    assert_eq!((uses, max), (2, 2));
}

#[tokio::test]
async fn a_text_that_postgres_does_not_have_is_the_callers_mistake() {
    let Some(store) = store().await else { return };
    let code = |error: StoreError| tonic::Status::from(error).code();
    assert_eq!(code(store.find_policy("a\0b").await.unwrap_err()), tonic::Code::InvalidArgument);
    assert_eq!(code(store.find_machine("a\0b").await.unwrap_err()), tonic::Code::InvalidArgument);
    assert_eq!(code(store.find_machine("ab").await.unwrap_err()), tonic::Code::NotFound);
    assert_eq!(code(store.resolve_point("a\0b@latest").await.unwrap_err()), tonic::Code::InvalidArgument);
}
