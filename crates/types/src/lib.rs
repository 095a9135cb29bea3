//! The vocabulary of Tunesmith: typed ids, states, bounded hyperparameters, wire bodies and error codes.
//!
//! This crate knows no other part of the system: no SQL, no HTTP server, no tensors. Everything that crosses a
//! boundary (API, queue, trainer process) is spelled here once.

pub mod api;
pub mod dataset;
pub mod error;
pub mod hyperparameters;
pub mod ids;
pub mod list;
pub mod names;
pub mod peft;
pub mod principal;
pub mod probe;
pub mod reason;
pub mod rollouts;
pub mod states;
pub mod statistics;
pub mod trainer;
pub mod version_reference;
