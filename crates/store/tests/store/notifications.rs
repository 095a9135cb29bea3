//! Wake-ups arrive when, and only when, the change is committed.

use std::time::Duration;

use tunesmith_store::{
    jobs,
    notifications::{Notification, Notifications},
};

use crate::fixtures::Bench;

#[tokio::test]
async fn queueing_and_cancelling_wake_whoever_listens() {
    let bench = Bench::new().await;
    let notifications = Notifications::listen(bench.store()).await.unwrap();
    let mut subscription = notifications.subscribe();
    let job = bench.job().await;
    assert_eq!(subscription.next().await, Notification::JobQueued(job.id));
    assert_eq!(subscription.next().await, Notification::JobUpdated(job.id));
    jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    subscription.job_updated(job.id, Duration::from_secs(60)).await;
    // Nothing more is on its way.
    subscription.job_updated(job.id, Duration::ZERO).await;
}
