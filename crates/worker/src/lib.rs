//! The worker: claims jobs, trains them in a child process, and publishes what comes out.
//!
//! [`Worker::run`] holds each claimed job under a lease that it renews. The child (`tunesmith-trainer`) has no
//! credentials: it reads a run directory, prints events, and writes files; the worker uploads them and writes the
//! rows. Every write names the lease, so a worker that lost it changes nothing. A run that ends, however it ends,
//! leaves its checkpoints, from which the next one goes on.

mod adapter_folder;
mod arguments;
mod base_model_cache;
mod checkpoint_upload;
mod child;
mod failure;
mod lease;
mod lines;
mod manifest;
mod metrics_file;
mod metrics_writer;
mod persist;
mod publish;
mod run;
mod scratch;
mod settings;
mod stage;
mod supervise;
mod watchdog;
mod worker;

pub use settings::{TrainerSettings, WorkerSettings, WorkerTimings};
pub use worker::{Worker, WorkerError};
