//! What a worker needs to know.

use std::{path::PathBuf, time::Duration};

use tunesmith_store::queue::QueueSettings;

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Tells this worker from others in rows and logs (host name and process id).
    pub name: String,
    /// Holds the run directories. One worker uses it at a time; what an earlier one left there is removed.
    pub scratch_dir: PathBuf,
    /// Holds base models by digest; may be shared with other workers.
    pub cache_dir: PathBuf,
    /// Base models that were not used for longest are removed from the cache when it holds more bytes than this.
    pub cache_limit_bytes: u64,
    /// The child.
    pub trainer: TrainerSettings,
    /// Which jobs are trained together.
    pub gang: GangSettings,
    /// The times of the lease, as the database applies them.
    pub queue: QueueSettings,
    /// The times that the worker keeps by itself.
    pub timings: WorkerTimings,
}

impl WorkerSettings {
    /// The usual times and bounds, one trainer on the device that it chooses, everything in `data_dir`.
    #[must_use]
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>, trainer: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            name: name.into(),
            scratch_dir: data_dir.join("worker"),
            cache_dir: data_dir.join("cache"),
            cache_limit_bytes: 64 << 30,
            trainer: TrainerSettings {
                program: trainer.into(),
                devices: vec!["auto".to_owned()],
                threads: None,
            },
            gang: GangSettings::default(),
            queue: QueueSettings::default(),
            timings: WorkerTimings::default(),
        }
    }
}

/// How the child is started.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    /// `tunesmith-trainer`
    pub program: PathBuf,
    /// Devices (`auto`, `cpu`, `cuda:0`), with at most one child on each.
    pub devices: Vec<String>,
    /// CPU threads of each child; none leaves it to the child.
    pub threads: Option<u32>,
}

/// The bounds of a gang: jobs on one base model that one trainer trains together.
#[derive(Debug, Clone, Copy)]
pub struct GangSettings {
    /// Jobs at a time; at least 1.
    pub most_jobs: usize,
    /// Sum of the jobs' LoRA ranks, which bounds their memory: an adapter with its gradients and optimizer takes at
    /// most `16 * rank * (inputs + outputs)` bytes over the modules of the base model, some 42 MB a rank where that
    /// has 8 billion parameters. A job that exceeds it by itself is trained alone.
    pub most_rank: u32,
    /// Once a job that needs another base model has waited for this long, nobody joins ahead of it any more.
    pub patience: Duration,
    /// A trainer without jobs keeps its base model loaded for this long, unless a job needs another one.
    pub idle: Duration,
}

impl Default for GangSettings {
    fn default() -> Self {
        Self {
            most_jobs: 8,
            most_rank: 512,
            patience: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// The times that a worker keeps by itself. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct WorkerTimings {
    /// Between two renewals of a lease.
    pub renew: Duration,
    /// A job is given up this long after the last renewal that was answered, counted from before it was sent: it is
    /// cancelled in its child, which is killed where it has no other job. Well below the lease's time-to-live.
    pub self_fence: Duration,
    /// Least time between two renewals where a notification hints at a cancel request.
    pub renew_least: Duration,
    /// Between two looks into the queue, where no notification comes.
    pub poll: Duration,
    /// Between two searches for workers that went silent.
    pub reap: Duration,
    /// Metrics wait at most this long to be written.
    pub metrics_flush: Duration,
    /// A child in which no job makes a step for this long is killed, unless steps are slow: see `progress_factor`. A
    /// single job that stands still among others has this long for each of them.
    pub progress_least: Duration,
    /// A child is also given this many times its median step.
    pub progress_factor: f64,
    /// From the cancel command to the kill; where others are in the child, to the step with which it shows that it goes
    /// on with them and does not obey.
    pub cancel_grace: Duration,
    /// From the drain command to the kill.
    pub drain_grace: Duration,
    /// For the child to exit after its last event.
    pub exit_grace: Duration,
    /// For checkpoints still to be uploaded when a run has ended.
    pub upload_grace: Duration,
    /// First pause before an upload or a write is tried again; it doubles.
    pub retry: Duration,
}

impl Default for WorkerTimings {
    fn default() -> Self {
        Self {
            renew: Duration::from_secs(15),
            self_fence: Duration::from_secs(45),
            renew_least: Duration::from_secs(1),
            poll: Duration::from_secs(5),
            reap: Duration::from_secs(5),
            metrics_flush: Duration::from_millis(500),
            progress_least: Duration::from_secs(600),
            progress_factor: 10.0,
            cancel_grace: Duration::from_secs(20),
            drain_grace: Duration::from_secs(60),
            exit_grace: Duration::from_secs(10),
            upload_grace: Duration::from_secs(25),
            retry: Duration::from_millis(250),
        }
    }
}
