//! The rules, one file per resource: what a request means, and what must hold. Nothing here knows HTTP.

pub mod accounts;
mod adapter_check;
pub mod adapters;
pub mod aliases;
pub mod api_keys;
pub mod base_models;
pub mod bootstrap;
pub mod checkpoints;
pub mod datasets;
mod deployment_targets;
pub mod deployments;
pub mod exports;
pub mod feedback;
mod job_decisions;
mod job_targets;
pub mod job_view;
pub mod jobs;
pub mod lineage;
pub mod metrics_stream;
pub mod model_check;
pub mod model_import;
pub mod rollouts;
mod servability;
pub mod stats;
pub mod tar_stream;
pub mod usage;
pub mod validation;
