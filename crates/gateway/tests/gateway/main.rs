//! Gateway and reconciler on a real database and a real object store, against a replica that can be made to fail.
//! How the real engine answers is the subject of the end-to-end tests.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests, which say what they measured"
)]

mod bench;
mod canaries;
mod contract;
mod drain;
mod faults;
mod fixtures;
mod loading;
mod metering;
mod probes;
mod promotion;
mod proxying;
mod rollouts;
mod vllm;
