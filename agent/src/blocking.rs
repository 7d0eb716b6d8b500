/// Does something that blocks on a thread for that. A panic there is one here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Not begun, since the runtime ends; so does whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
