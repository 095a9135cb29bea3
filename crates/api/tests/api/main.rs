//! The whole router over a real connection, on a database and an object store of the test's own.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "tests")]

mod accounts;
mod adapters;
mod aliases;
mod api_keys;
mod base_models;
mod checkpoints;
mod datasets;
mod deployments;
mod exports;
mod idempotency;
mod import_places;
mod imports;
mod isolation;
mod job_parents;
mod jobs;
mod lineage;
mod metrics_stream;
mod peft_folders;
mod rollouts;
mod service;
mod support;
mod versions;
mod wrong_input;
