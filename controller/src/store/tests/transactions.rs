use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::store::{During as _, Store, StoreError};

use super::{machines, store};

/// gRPC drops handlers whose client is gone. Dropping the caller of a transaction at any moment must leave neither half an
/// effect nor a connection that is still in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_caller_poisons_no_connection() {
    let Some(store) = store().await else { return };
    // Opens a connection.
    write_two_halves(&store, 0).await.unwrap();
    let mut usual = Duration::MAX;
    for round in 1..5 {
        let started = Instant::now();
        write_two_halves(&store, round).await.unwrap();
        usual = usual.min(started.elapsed());
    }
    let begun = Arc::new(AtomicI64::new(5));
    let (mut dropped, mut answered) = (0, 0);
    for round in 0..200 {
        let call = tokio::spawn({
            let (store, begun) = (store.clone(), Arc::clone(&begun));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                write_two_halves(&store, 5 + round).await
            }
        });
        // Tokio's own clock counts milliseconds, of which a transaction takes one or two.
        std::thread::sleep(usual * round / 50);
        call.abort();
        match call.await {
            Ok(written) => {
                written.unwrap();
                answered += 1;
            }
            Err(gone) => {
                assert!(gone.is_cancelled(), "{gone}");
                dropped += 1;
            }
        }
    }
    assert!(dropped > 0 && answered > 0, "{dropped} were dropped, {answered} answered: nothing was proved");
    let begun = begun.load(Ordering::SeqCst);
    let waited = Instant::now();
    while written(&store).await < begun && waited.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(written(&store).await, begun, "what was begun is done, whoever is gone");
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

async fn write_two_halves(store: &Store, round: u32) -> Result<(), StoreError> {
    let written = store.transaction("test", move |connection| {
        Box::pin(async move {
            for half in ["a", "b"] {
                sqlx::query("INSERT INTO audit (actor, action, subject) VALUES ('test', $1, $2)")
                    .bind(half)
                    .bind(round.to_string())
                    .execute(&mut *connection)
                    .await
                    .during("test")?;
            }
            Ok(())
        })
    });
    written.await
}

/// How many of them there are at least a half of.
async fn written(store: &Store) -> i64 {
    let count = "SELECT count(DISTINCT subject) FROM audit WHERE actor = 'test'";
    sqlx::query_scalar(count).fetch_one(&store.pool).await.unwrap()
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
