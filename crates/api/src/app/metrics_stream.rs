//! A job's numbers as they come: woken by the database, resumable at any step, ended by the job's end.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;
use tunesmith_store::jobs::{self, Job};
use tunesmith_store::metrics::{self, MetricRow};
use tunesmith_store::notifications::Subscription;
use tunesmith_types::api::jobs as body;
use tunesmith_types::ids::JobId;
use tunesmith_types::principal::Principal;

use super::job_view::{job_view, metric_view};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// The tables are asked again after so long, should a wake-up be lost.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const ROWS_AT_A_TIME: u32 = 500;
/// An evaluation ends after its step was sent: so many steps are looked back upon for it.
const LOOK_BACK: usize = 64;

/// What the stream yields.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricsEvent {
    /// The numbers of a step, in the order of the steps. A step that was sent comes again when it is evaluated.
    Metric(body::JobMetric),
    /// The job has ended; the last event.
    End(Box<body::Job>),
}

/// Steps that were sent without an evaluation.
#[derive(Default)]
struct Sent {
    last: Option<i64>,
    unevaluated: VecDeque<i64>,
}

impl Sent {
    fn note(&mut self, row: &MetricRow) {
        if self.last.is_none_or(|last| row.step > last) {
            self.last = Some(row.step);
        }
        self.unevaluated.retain(|step| *step != row.step);
        if row.eval_loss.is_none() {
            self.unevaluated.push_back(row.step);
        }
        if self.unevaluated.len() > LOOK_BACK {
            self.unevaluated.pop_front();
        }
    }

    fn is_news(&self, row: &MetricRow) -> bool {
        let evaluated_since = || row.eval_loss.is_some() && self.unevaluated.contains(&row.step);
        self.last.is_none_or(|last| row.step > last) || evaluated_since()
    }

    /// The step behind which there may be news.
    fn horizon(&self) -> Option<i64> {
        self.unevaluated.front().map(|step| step - 1).or(self.last)
    }
}

/// The numbers behind step `after`, those that are there and those that come.
///
/// # Errors
/// The organization has no such job.
pub async fn follow(
    state: &ApiState,
    caller: &Principal,
    id: JobId,
    after: Option<i64>,
) -> Result<impl Stream<Item = Result<MetricsEvent, ApiError>> + Send + use<>, ApiError> {
    // Subscribed before the first query, so that nothing falls in between.
    let mut news: Subscription = state.notifications.subscribe();
    let organization = caller.organization_id;
    jobs::get(&state.store, organization, id)
        .await
        .or_not_found(super::jobs::KIND, id)?;
    let store = state.store.clone();
    Ok(async_stream::try_stream! {
        let mut sent = Sent { last: after, unevaluated: VecDeque::new() };
        loop {
            // Read before its metrics: when it has ended, all of them are there.
            let job: Job = jobs::get(&store, organization, id).await?;
            let mut horizon = sent.horizon();
            loop {
                let rows = metrics::list(&store, organization, id, horizon, ROWS_AT_A_TIME).await?;
                for row in rows.iter().filter(|row| row.loss.is_some() || row.eval_loss.is_some()) {
                    if sent.is_news(row) {
                        sent.note(row);
                        yield MetricsEvent::Metric(metric_view(row));
                    }
                }
                match rows.last() {
                    Some(row) if rows.len() == ROWS_AT_A_TIME as usize => horizon = Some(row.step),
                    _ => break,
                }
            }
            if job.state.is_final() {
                yield MetricsEvent::End(Box::new(job_view(job, &[])));
                break;
            }
            news.job_updated(id, LONGEST_WAIT).await;
        }
    })
}
