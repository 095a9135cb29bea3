//! Gateway and reconciler on a real database and a real object store, against a replica that can be made to fail.
//! How the real engine answers is the subject of the end-to-end tests.

#![allow(clippy::unwrap_used)]

mod bench;
mod canaries;
mod faults;
mod metering;
mod promotion;
mod proxying;
mod replica;
mod rollouts;
