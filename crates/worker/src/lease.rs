//! Holding a job: a task of its own renews the lease, whatever else the worker is busy with.

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tunesmith_store::{
    Store, StoreError,
    notifications::{Notification, Subscription},
    queue::{self, LeaseToken, QueueSettings},
};

use crate::settings::WorkerTimings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Held { cancel_requested: bool },
    Lost,
}

/// A lease that is being renewed. Dropped, the renewing ends and the lease runs out by itself.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) token: LeaseToken,
    status: watch::Sender<Status>,
    task: JoinHandle<()>,
}

impl Lease {
    /// Renews from now on. `claimed_at`: before the claim was sent.
    pub(crate) fn hold(
        store: Store,
        queue: QueueSettings,
        timings: WorkerTimings,
        token: LeaseToken,
        claimed_at: Instant,
        notifications: Subscription,
    ) -> Self {
        let (status, _) = watch::channel(Status::Held {
            cancel_requested: false,
        });
        let renewal = Renewal {
            store,
            queue,
            timings,
            token,
            last_answered: claimed_at,
            notifications,
            status: status.clone(),
        };
        let task = tokio::spawn(renewal.run());
        Self { token, status, task }
    }

    /// A handle for tasks whose writes may learn that the lease is lost.
    pub(crate) fn handle(&self) -> LeaseHandle {
        LeaseHandle {
            token: self.token,
            status: self.status.clone(),
        }
    }

    /// Waits until the lease is lost.
    pub(crate) async fn lost(&self) {
        wait_for(&self.status, |status| *status == Status::Lost).await;
    }

    /// Waits until somebody has asked to cancel the job.
    pub(crate) async fn cancel_requested(&self) {
        wait_for(&self.status, |status| {
            *status
                == Status::Held {
                    cancel_requested: true,
                }
        })
        .await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes under a lease, and reports when one is refused.
#[derive(Debug, Clone)]
pub(crate) struct LeaseHandle {
    pub(crate) token: LeaseToken,
    status: watch::Sender<Status>,
}

impl LeaseHandle {
    /// Passes an answer on; where it says that the lease is lost, everything of the run stops.
    pub(crate) fn check<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(answer, Err(StoreError::LeaseLost)) {
            self.status.send_replace(Status::Lost);
        }
        answer
    }
}

async fn wait_for(status: &watch::Sender<Status>, condition: impl Fn(&Status) -> bool) {
    let mut receiver = status.subscribe();
    if receiver.wait_for(|status| condition(status)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Renewal {
    store: Store,
    queue: QueueSettings,
    timings: WorkerTimings,
    token: LeaseToken,
    last_answered: Instant,
    notifications: Subscription,
    status: watch::Sender<Status>,
}

impl Renewal {
    async fn run(mut self) {
        let mut next = self.last_answered + self.timings.renew;
        loop {
            let fence = self.last_answered + self.timings.self_fence;
            self.wait_until(next.min(fence)).await;
            if *self.status.borrow() == Status::Lost {
                return;
            }
            match self.renew().await {
                Some(true) => next = self.last_answered + self.timings.renew,
                Some(false) => next = Instant::now() + self.timings.renew / 10,
                None => {
                    self.status.send_replace(Status::Lost);
                    return;
                }
            }
        }
    }

    /// One renewal: whether it was answered, or nothing where the lease is to be given up. It counts from before it
    /// was sent, because the database may have counted from then.
    async fn renew(&mut self) -> Option<bool> {
        let sent = Instant::now();
        let fence = self.last_answered + self.timings.self_fence;
        let job = self.token.job_id;
        let answer =
            tokio::time::timeout_at(fence, queue::renew(&self.store, &self.queue, &self.token)).await;
        match answer {
            Ok(Ok(answer)) => {
                self.last_answered = sent;
                let renewed = Status::Held {
                    cancel_requested: answer.cancel_requested,
                };
                self.status.send_if_modified(|status| {
                    let changed = *status != Status::Lost && *status != renewed;
                    if changed {
                        *status = renewed;
                    }
                    changed
                });
                Some(true)
            }
            Ok(Err(StoreError::LeaseLost)) => {
                tracing::warn!(%job, "the lease is lost");
                None
            }
            Ok(Err(error)) if Instant::now() < fence => {
                tracing::warn!(%job, error = &error as &dyn std::error::Error, "a renewal failed");
                Some(false)
            }
            Ok(Err(_)) | Err(_) => {
                tracing::error!(%job, "no renewal was answered in time; giving the job up");
                None
            }
        }
    }

    /// Sleeps until `next`, less where a notification about the job may mean a cancel request.
    async fn wait_until(&mut self, next: Instant) {
        let earliest = self.last_answered + self.timings.renew_least;
        let job = self.token.job_id;
        let hint = async {
            loop {
                match self.notifications.next().await {
                    Notification::JobUpdated(updated) if updated == job => break,
                    Notification::Missed => break,
                    _ => {}
                }
            }
            tokio::time::sleep_until(earliest).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = hint => {}
        }
    }
}
