//! Writes that wait for a database that is away. The lease bounds the waiting: once it is lost, whoever waits is
//! dropped.

use std::{future::Future, time::Duration};

use tunesmith_store::StoreError;

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls `write` until it succeeds or fails for good.
pub(crate) async fn persist<T, F>(
    first_pause: Duration,
    mut write: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = first_pause;
    loop {
        match write().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the database is away; trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}
