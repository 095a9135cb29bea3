//! `tunesmith worker`, and the worker of `tunesmith up`.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use tunesmith_worker::{Worker, WorkerSettings};

use super::{connections, executables, signals};
use crate::args::platform::{LeaseProfile, TrainingArgs, WorkerArgs};

pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let WorkerArgs {
        work_dir,
        database,
        objects,
        training,
    } = args;
    let stop = signals::shutdown(false)?;
    let store = connections::database(&database).await?;
    store.check_schema().await.context("the database is not ready")?;
    let blobs = connections::object_store(&objects).await?;
    let work_dir = work_dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!("tunesmith-worker-{}", std::process::id())));
    let settings = settings(&work_dir, &training)?;
    Worker::run(settings, store, blobs, stop)
        .await
        .context("the worker failed")?;
    Ok(ExitCode::SUCCESS)
}

/// Settings of a worker with its files below `folder`.
pub(super) fn settings(folder: &Path, training: &TrainingArgs) -> anyhow::Result<WorkerSettings> {
    let folder =
        std::path::absolute(folder).with_context(|| format!("cannot resolve {}", folder.display()))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    let name = format!("{}:{}", host.trim(), std::process::id());
    let mut settings = WorkerSettings::new(name, folder, executables::trainer()?);
    settings.gang.most_jobs = usize::from(training.gang_jobs);
    settings.gang.idle = Duration::from_secs(training.trainer_idle);
    if training.lease_profile == LeaseProfile::Test {
        shorten(&mut settings);
    }
    Ok(settings)
}

/// Timings with which a take-over takes seconds.
fn shorten(settings: &mut WorkerSettings) {
    let seconds = Duration::from_secs_f64;
    settings.queue.ttl = seconds(4.0);
    settings.queue.takeover_grace = seconds(1.0);
    settings.queue.retry_base = seconds(0.2);
    settings.queue.retry_most = seconds(1.0);
    settings.timings.renew = seconds(0.7);
    settings.timings.self_fence = seconds(2.5);
    settings.timings.renew_least = seconds(0.1);
    settings.timings.poll = seconds(0.5);
    settings.timings.reap = seconds(0.5);
    settings.timings.metrics_flush = seconds(0.1);
    settings.timings.cancel_grace = seconds(5.0);
    settings.timings.drain_grace = seconds(10.0);
}
