//! The whole of a worker: its devices are served, jobs of workers that went silent are searched for, and at the end
//! everything is drained.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunesmith_blobs::Blobs;
use tunesmith_store::{
    Store, StoreError,
    notifications::{Notification, Notifications, Subscription},
    queue,
};

use crate::{
    base_model_cache::BaseModelCache,
    exports::serve_exports,
    failure::chain,
    gang::serve,
    persist::persist,
    run::WorkerContext,
    scratch::{Scratch, ScratchError},
    settings::WorkerSettings,
};

/// The worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Another worker uses the folder.
    #[error("another worker uses {}", path.display())]
    ScratchInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder cannot be used.
    #[error("cannot use the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// There is no trainer to start.
    #[error("there is no trainer at {}", path.display())]
    NoTrainer {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is no device to train on.
    #[error("the worker has no device")]
    NoDevice,
    /// The database refuses to notify.
    #[error("cannot listen for jobs")]
    Listen(#[source] StoreError),
}

/// Claims jobs and trains them.
#[derive(Debug, Clone, Copy)]
pub struct Worker;

impl Worker {
    /// Works until `shutdown`, then drains: no further claims; each job's checkpoint is written and uploaded, and it
    /// goes back to the queue without an attempt being used. Returns when nothing is left to do, and no child
    /// is left behind. Dropping the future kills the children; their jobs are then rescued by other workers.
    ///
    /// # Errors
    /// The worker cannot start. Once it runs it goes on, also while the database or the object store is away.
    pub async fn run(
        settings: WorkerSettings,
        store: Store,
        blobs: Blobs,
        shutdown: CancellationToken,
    ) -> Result<(), WorkerError> {
        check_trainer(&settings)?;
        let (scratch, cache) = open_folders(&settings)?;
        let first_pause = settings.timings.retry;
        let listening = persist(first_pause, || Notifications::listen(&store));
        let notifications = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            listening = listening => listening.map_err(WorkerError::Listen)?,
        };
        let context = Arc::new(WorkerContext {
            settings,
            store,
            blobs,
            cache,
            scratch,
            notifications,
            draining: shutdown,
        });
        tracing::info!(worker = context.settings.name, devices = ?context.settings.trainer.devices, "the worker is up");
        let mut reaper = JoinSet::new();
        reaper.spawn(reap_now_and_then(Arc::clone(&context)));
        let mut exporter = JoinSet::new();
        exporter.spawn(serve_exports(Arc::clone(&context)));
        serve_devices(&context).await;
        if let Some(Err(error)) = exporter.join_next().await {
            tracing::error!(%error, "exports are made no more");
        }
        tracing::info!(worker = context.settings.name, "the worker is drained");
        Ok(())
    }
}

fn check_trainer(settings: &WorkerSettings) -> Result<(), WorkerError> {
    if settings.trainer.devices.is_empty() {
        return Err(WorkerError::NoDevice);
    }
    if settings.trainer.program.is_file() {
        return Ok(());
    }
    Err(WorkerError::NoTrainer {
        path: settings.trainer.program.clone(),
    })
}

fn open_folders(settings: &WorkerSettings) -> Result<(Scratch, BaseModelCache), WorkerError> {
    let scratch = Scratch::open(&settings.scratch_dir).map_err(|error| match error {
        ScratchError::InUse => WorkerError::ScratchInUse {
            path: settings.scratch_dir.clone(),
        },
        ScratchError::Io(source) => WorkerError::Folder {
            path: settings.scratch_dir.clone(),
            source,
        },
    })?;
    let cache = BaseModelCache::open(&settings.cache_dir, settings.cache_limit_bytes).map_err(|source| {
        WorkerError::Folder {
            path: settings.cache_dir.clone(),
            source,
        }
    })?;
    Ok((scratch, cache))
}

async fn serve_devices(context: &Arc<WorkerContext>) {
    let mut devices = JoinSet::new();
    for device in &context.settings.trainer.devices {
        devices.spawn(serve(Arc::clone(context), device.clone()));
    }
    while let Some(ended) = devices.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a device is served no more");
        }
    }
}

/// Until a job is queued, but somewhat less than `longest`.
pub(crate) async fn wait_for_work(context: &WorkerContext, wakeups: &mut Subscription, longest: Duration) {
    let queued = async {
        while !matches!(
            wakeups.next().await,
            Notification::JobQueued(_) | Notification::Missed
        ) {}
    };
    tokio::select! {
        () = queued => {}
        () = wait_at_most(context, longest) => {}
    }
}

/// Somewhat less than `longest`, at random, so that workers that started together do not ask together.
pub(crate) async fn wait_at_most(context: &WorkerContext, longest: Duration) {
    let pause = longest.mul_f64(rand::random_range(0.8..=1.0));
    tokio::select! {
        () = context.draining.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

async fn reap_now_and_then(context: Arc<WorkerContext>) {
    while !context.draining.is_cancelled() {
        wait_at_most(&context, context.settings.timings.reap).await;
        match queue::reap(&context.store, &context.settings.queue).await {
            Ok(rescued) => {
                for (lease, outcome) in rescued {
                    tracing::warn!(job = %lease.token.job_id, worker = lease.worker, ?outcome, "a job was rescued");
                }
            }
            Err(error) => tracing::warn!(error = %chain(&error), "the reaper cannot ask the queue"),
        }
    }
}
