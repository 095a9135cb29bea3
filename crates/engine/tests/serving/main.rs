//! The real executable on tiny real models, over HTTP.
#![allow(clippy::unwrap_used)]

mod adapters;
mod echo;
mod errors;
mod generation;
mod golden;
mod lifecycle;
mod merging;
mod output;
mod residency;
mod server;
mod soak;
mod tool_calls;
mod words;
