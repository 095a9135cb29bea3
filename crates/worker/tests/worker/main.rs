//! The worker on a real PostgreSQL and a real S3 server. A scripted child stands in for the trainer where a fault must
//! come at a given moment; `tests/` drives the real one.
#![allow(clippy::unwrap_used)]

mod checkpoints;
mod exports;
mod faults;
mod gangs;
mod leases;
mod path;
mod real_trainer;
mod support;
