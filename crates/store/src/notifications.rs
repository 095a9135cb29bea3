//! Wake-ups from Postgres. They may be lost (a connection breaks), so whoever waits for one also asks the tables
//! again now and then; they are never the only road.

use std::time::Duration;

use sqlx::{PgConnection, postgres::PgListener};
use tokio::{sync::broadcast, task::JoinHandle};
use tunesmith_types::ids::{DeploymentId, JobId};

use crate::{Store, StoreError};

const JOB_QUEUED: &str = "job_queued";
const JOB_UPDATED: &str = "job_updated";
pub(crate) const DEPLOYMENT_UPDATED: &str = "deployment_updated";

/// Wake-ups that wait for a slow subscriber; after more it is told that it missed some.
const BACKLOG: usize = 1024;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// A job can be claimed.
    JobQueued(JobId),
    /// State, events, metrics or a cancel request of the job are new.
    JobUpdated(JobId),
    /// Revisions of the deployment are new.
    DeploymentUpdated(DeploymentId),
    /// Some may have been lost: ask the tables.
    Missed,
}

/// One listening connection, shared by all subscribers of the process. Dropping it ends the listening.
#[derive(Debug)]
pub struct Notifications {
    sender: broadcast::Sender<Notification>,
    task: JoinHandle<()>,
}

/// A stream of wake-ups from the moment of [`Notifications::subscribe`] on.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Notification>,
}

impl Notifications {
    /// Listens on all channels. Subscribe first, then query: then nothing that changes is overlooked.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn listen(store: &Store) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(store.pool()).await?;
        listener
            .listen_all([JOB_QUEUED, JOB_UPDATED, DEPLOYMENT_UPDATED])
            .await?;
        let (sender, _) = broadcast::channel(BACKLOG);
        let task = tokio::spawn(forward(listener, sender.clone()));
        Ok(Self { sender, task })
    }

    /// A new stream of wake-ups.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription {
            receiver: self.sender.subscribe(),
        }
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    /// Waits for the next wake-up. After [`Notifications`] is dropped it waits for ever.
    pub async fn next(&mut self) -> Notification {
        match self.receiver.recv().await {
            Ok(notification) => notification,
            Err(broadcast::error::RecvError::Lagged(_)) => Notification::Missed,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Waits for a wake-up about this job, but no longer than `longest`.
    pub async fn job_updated(&mut self, job: JobId, longest: Duration) {
        let about_it = async {
            loop {
                match self.next().await {
                    Notification::JobUpdated(updated) if updated == job => return,
                    Notification::Missed => return,
                    _ => {}
                }
            }
        };
        // Late or not, the caller asks the tables next.
        let _: Result<(), _> = tokio::time::timeout(longest, about_it).await;
    }
}

async fn forward(mut listener: PgListener, sender: broadcast::Sender<Notification>) {
    loop {
        let notification = match listener.try_recv().await {
            Ok(Some(received)) => parse(received.channel(), received.payload()),
            Ok(None) => Some(Notification::Missed),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "listening for notifications failed"
                );
                tokio::time::sleep(RECONNECT_PAUSE).await;
                Some(Notification::Missed)
            }
        };
        if let Some(notification) = notification {
            // Without subscribers nobody needs to know.
            let _: Result<usize, _> = sender.send(notification);
        }
    }
}

fn parse(channel: &str, payload: &str) -> Option<Notification> {
    let parsed = match channel {
        JOB_QUEUED => payload.parse().ok().map(Notification::JobQueued),
        JOB_UPDATED => payload.parse().ok().map(Notification::JobUpdated),
        DEPLOYMENT_UPDATED => payload.parse().ok().map(Notification::DeploymentUpdated),
        _ => None,
    };
    if parsed.is_none() {
        tracing::warn!(channel, payload, "unknown notification");
    }
    parsed
}

/// Delivered when the caller's transaction commits.
async fn notify(connection: &mut PgConnection, channel: &str, payload: &str) -> Result<(), StoreError> {
    sqlx::query!("select pg_notify($1, $2)", channel, payload)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn notify_job_queued(connection: &mut PgConnection, job: JobId) -> Result<(), StoreError> {
    notify(connection, JOB_QUEUED, &job.to_string()).await
}

pub(crate) async fn notify_job_updated(connection: &mut PgConnection, job: JobId) -> Result<(), StoreError> {
    notify(connection, JOB_UPDATED, &job.to_string()).await
}

pub(crate) async fn notify_deployment_updated(
    connection: &mut PgConnection,
    deployment: DeploymentId,
) -> Result<(), StoreError> {
    notify(connection, DEPLOYMENT_UPDATED, &deployment.to_string()).await
}
