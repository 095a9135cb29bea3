//! The worker: claims jobs, trains them in child processes, and publishes what comes out.
//!
//! [`Worker::run`] holds each claimed job under a lease that it renews. A child (`tunesmith-trainer`) serves one base
//! model and trains the jobs of a gang together. It has no credentials: it reads run directories, prints events, and
//! writes files; the worker uploads them and writes the rows. Every write names the lease, so a worker that lost it changes nothing. A run that ends, however it ends,
//! leaves its checkpoints, from which the next one goes on.

mod adapter_folder;
mod base_model_cache;
mod checkpoint_upload;
mod child;
mod exports;
mod failure;
mod gang;
mod lease;
mod lines;
mod manifest;
mod metrics_file;
mod metrics_writer;
mod persist;
mod probes;
mod process;
mod publish;
mod run;
mod scratch;
mod seats;
mod settings;
mod spec;
mod stage;
mod supervise;
mod trainer;
mod watchdog;
mod worker;

pub use settings::{GangSettings, TrainerSettings, WorkerSettings, WorkerTimings};
pub use worker::{Worker, WorkerError};
