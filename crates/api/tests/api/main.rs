//! The whole router over a real connection, on a database and an object store of the test's own.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "tests")]

mod accounts;
mod adapters;
mod api_keys;
mod base_models;
mod datasets;
mod deployments;
mod exports;
mod idempotency;
mod isolation;
mod jobs;
mod metrics_stream;
mod service;
mod support;
mod wrong_input;
