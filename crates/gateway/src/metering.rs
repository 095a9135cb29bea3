//! Counting every request and every token, off the requests' way: a request leaves its record in a queue when it ends,
//! however it ends, and one task writes the queue to the database in batches.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tunesmith_store::{
    Store, StoreError,
    requests::{self, MeteredRequest},
};

/// Records of one statement.
const BATCH: usize = 1_000;
/// Records that wait while the database does not answer; each takes some 300 bytes.
const MOST_WAITING: usize = 200_000;
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Tries at the end, when nobody will come after.
const LAST_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Where records are left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    full: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<(MeteredRequest, Instant)>,
    lost: u64,
}

impl Meter {
    /// Leaves a record of a request that has just ended.
    pub(crate) fn record(&self, request: MeteredRequest) {
        let mut waiting = self.lock();
        if waiting.records.len() >= MOST_WAITING {
            waiting.lost += 1;
            return;
        }
        waiting.records.push_back((request, Instant::now()));
        if waiting.records.len() >= BATCH {
            self.queue.full.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.queue
            .waiting
            .lock()
            .expect("invariant: no holder of the meter's lock panics")
    }

    /// Writes what is left in the queue until `shutdown`, and then what still waits.
    pub(crate) async fn write(self, store: Store, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.queue.full.notified() => {}
                () = tokio::time::sleep(FLUSH_EVERY) => {}
            }
            if let Err(error) = self.flush(&store).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot write what was metered; the next round will"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
        for _ in 0..LAST_TRIES {
            match self.flush(&store).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot write what was metered"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        let waiting = self.lock().records.len();
        tracing::error!(
            requests = waiting,
            "metered requests are lost: the database does not answer"
        );
    }

    /// Writes all that waits now.
    async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        loop {
            let lost = std::mem::take(&mut self.lock().lost);
            if lost > 0 {
                tracing::error!(
                    requests = lost,
                    "metered requests are lost: too many wait for the database"
                );
            }
            let batch = self.peek();
            if batch.is_empty() {
                return Ok(());
            }
            match requests::record(store, &batch).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                // One that the database does not take must not hold up the others.
                Err(_) => write_singly(store, &batch).await?,
            }
            self.lock().records.drain(..batch.len());
        }
    }

    /// The oldest records, with their ages; they stay in the queue until they are written.
    fn peek(&self) -> Vec<MeteredRequest> {
        let waiting = self.lock();
        let oldest = waiting.records.iter().take(BATCH);
        oldest
            .map(|(request, ended)| MeteredRequest {
                age_seconds: request.duration_ms / 1_000.0 + ended.elapsed().as_secs_f64(),
                ..request.clone()
            })
            .collect()
    }
}

async fn write_singly(store: &Store, batch: &[MeteredRequest]) -> Result<(), StoreError> {
    for request in batch {
        match requests::record(store, std::slice::from_ref(request)).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(id = %request.id, organization = %request.organization_id, error, "a metered request is lost");
            }
        }
    }
    Ok(())
}
