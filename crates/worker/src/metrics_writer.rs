//! Numbers of steps on their way to Postgres, some at a time. Pushing never waits: while the database is away the
//! numbers wait here, and the lease bounds for how long.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tunesmith_store::{Store, metrics::NewMetric, queue};

use crate::{lease::LeaseHandle, persist::persist, settings::WorkerTimings};

/// As many steps are written at once, without waiting for the time to pass.
const BATCH: usize = 50;

/// Collects numbers; a task of its own writes them.
#[derive(Debug)]
pub(crate) struct MetricsWriter {
    waiting: Arc<Waiting>,
    finishing: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    metrics: Mutex<Vec<NewMetric>>,
    full: Notify,
}

impl Waiting {
    fn take(&self) -> Vec<NewMetric> {
        std::mem::take(&mut *self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MetricsWriter {
    pub(crate) fn start(store: Store, lease: LeaseHandle, timings: &WorkerTimings) -> Self {
        let waiting = Arc::new(Waiting::default());
        let finishing = CancellationToken::new();
        let writing = write_all(store, lease, *timings, Arc::clone(&waiting), finishing.clone());
        Self {
            waiting,
            finishing,
            task: tokio::spawn(writing),
        }
    }

    pub(crate) fn push(&self, metric: NewMetric) {
        let mut metrics = self
            .waiting
            .metrics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        metrics.push(metric);
        if metrics.len() >= BATCH {
            self.waiting.full.notify_one();
        }
    }

    /// Writes what is left.
    pub(crate) async fn finish(mut self) {
        self.finishing.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the metrics writer panicked");
        }
    }
}

impl Drop for MetricsWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_all(
    store: Store,
    lease: LeaseHandle,
    timings: WorkerTimings,
    waiting: Arc<Waiting>,
    finishing: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(timings.metrics_flush) => {}
            () = waiting.full.notified() => {}
            () = finishing.cancelled() => {}
        }
        let last = finishing.is_cancelled();
        let batch = waiting.take();
        if !batch.is_empty() {
            let written = persist(timings.retry, || {
                queue::record_metrics(&store, &lease.token, &batch)
            })
            .await;
            if let Err(error) = lease.check(written) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "metrics could not be written"
                );
            }
        }
        if last {
            return;
        }
    }
}
