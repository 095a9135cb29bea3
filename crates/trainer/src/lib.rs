//! The training engine: one job from a base model and a JSONL file to an adapter (or a whole model), by hand or as the
//! child of `tunesmith worker`.
//!
//! ```text
//! arguments ──▶ recipe ──▶ data, base model, subject (what is trained)
//!                              │
//!      ┌───────────────────────▼─────────────────────────────┐
//!      │ plan(step) ▶ micro-batches ▶ loss.backward ▶ AdamW  │──▶ events, steps log, evaluation, checkpoints
//!      └─────────────────────────────────────────────────────┘
//! ```
//!
//! On the CPU the same command gives the same bytes, and so does a run that was killed and resumed: order and dropout
//! are pure functions of seed and step, and checkpoints fall on optimizer steps.

pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod init;
pub mod loss;
pub mod micro_batch;
pub mod optimizer;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod run;
pub mod schedule;
pub mod steps_log;
pub mod subject;
pub mod vocabulary;
