//! The training engine: jobs that share a base model go from JSONL files to adapters, together in one process; by hand or
//! as the child of `tunesmith worker`. One code path serves `train` (a gang of one) and `gang`.
//!
//! ```text
//! command line ─┐                                     ┌ per job ────────────────────────────┐
//! SPEC.json ────┼▶ assignment ─▶ preparation ─▶ job   │ plan: the documents of the next step │
//! join ─────────┘   (thread: data, plan)         │    └──────────────────┬───────────────────┘
//!                                                ▼                       ▼ (thread: one step ahead)
//!                                  gang: one cycle = passes over the documents of all jobs (shared base model)
//!                                                                        ▼
//!                  ┌ per job ─────────────────────────────────────────────────────────────────────────┐
//!                  │ finite? ▶ clip ▶ AdamW ▶ events, steps log ▶ evaluation, selection ▶ checkpoint   │
//!                  └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! On the CPU the same command gives the same bytes, and so does a run that was killed and resumed: order and dropout
//! are pure functions of seed and step, and checkpoints fall on optimizer steps. A job in a gang gives what it gives alone
//! but for the order in which floats are summed ([`passes`]).

pub mod ahead;
pub mod arguments;
pub mod assignment;
pub mod base;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod data;
pub mod device;
pub mod disk;
pub mod documents;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod full;
pub mod gang;
pub mod init;
pub mod job;
pub mod merge;
pub mod optimizer;
pub mod passes;
pub mod plan;
pub mod preparation;
pub mod probes;
pub mod process;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod schedule;
pub mod selection;
pub mod steps_log;
pub mod subject;
pub mod vocabulary;
