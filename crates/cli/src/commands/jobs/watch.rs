//! Following a job until it ends.

use std::time::{Duration, Instant};

use tunesmith_types::{
    api::jobs::{Job, JobMetric},
    ids::JobId,
};

use crate::{
    client::{ApiClient, ApiFailure},
    printer::Printer,
    terminal::{loss_curve, training::TrainingBar},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(400);
/// A server that is away for so long is given up on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of the loss curve, in characters.
const CURVE: (usize, usize) = (76, 10);

/// Shows progress until the job ends, then draws its loss. A server that restarts meanwhile is waited for.
pub(crate) async fn follow(client: &ApiClient, job: Job, printer: Printer) -> anyhow::Result<Job> {
    let (job, metrics) = watch(client, job, printer).await?;
    if let Some(curve) = curve(&metrics) {
        printer.words(curve);
    }
    Ok(job)
}

/// The picture of a job's loss.
pub(crate) fn curve(metrics: &[JobMetric]) -> Option<String> {
    let points: Vec<(u64, f64)> = metrics
        .iter()
        .filter_map(|metric| Some((metric.step.unsigned_abs(), metric.loss?)))
        .collect();
    loss_curve::draw(&points, CURVE.0, CURVE.1)
}

/// Shows progress until the job ends; returns it with all its metrics.
pub(crate) async fn watch(
    client: &ApiClient,
    job: Job,
    printer: Printer,
) -> anyhow::Result<(Job, Vec<JobMetric>)> {
    let mut bar = TrainingBar::new(printer);
    let (id, mut job) = (job.id, job);
    let mut metrics: Vec<JobMetric> = Vec::new();
    let mut away_since: Option<Instant> = None;
    loop {
        match look(client, id, &mut metrics).await {
            Ok(seen) => {
                away_since = None;
                job = seen;
            }
            Err(error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if !is_passing(&error) || since.elapsed() > PATIENCE {
                    bar.finish();
                    return Err(error);
                }
                tracing::debug!(error = format!("{error:#}"), "the server is away");
            }
        }
        bar.show(&job, &metrics);
        if job.status.is_final() {
            bar.finish();
            return Ok((job, metrics));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The state first, then the metrics: so a job that is seen to have ended has all its metrics here.
async fn look(client: &ApiClient, id: JobId, metrics: &mut Vec<JobMetric>) -> anyhow::Result<Job> {
    let job = client.job(&id.to_string()).await?;
    extend(client, id, metrics).await?;
    Ok(job)
}

/// Adds the steps that are new.
async fn extend(client: &ApiClient, id: JobId, metrics: &mut Vec<JobMetric>) -> anyhow::Result<()> {
    loop {
        let last = metrics.last().map(|metric| metric.step);
        let page = client.job_metrics(id, last).await?;
        let more = page.has_more && !page.data.is_empty();
        metrics.extend(page.data);
        if !more {
            return Ok(());
        }
    }
}

/// All metrics that there are.
pub(crate) async fn all_metrics(client: &ApiClient, id: JobId) -> anyhow::Result<Vec<JobMetric>> {
    let mut metrics = Vec::new();
    extend(client, id, &mut metrics).await?;
    Ok(metrics)
}

/// Whether the same question may be answered later: the server is restarting, or failed.
fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ApiFailure>() {
        Some(failure) => failure.status >= 500 || failure.status == 429,
        None => true,
    }
}
