//! The rules, one file per resource: what a request means, and what must hold. Nothing here knows HTTP.

pub mod accounts;
pub mod adapters;
pub mod api_keys;
pub mod base_models;
pub mod bootstrap;
pub mod datasets;
pub mod deployments;
pub mod exports;
mod job_decisions;
mod job_targets;
pub mod job_view;
pub mod jobs;
pub mod metrics_stream;
pub mod model_check;
pub mod model_import;
pub mod tar_stream;
pub mod validation;
