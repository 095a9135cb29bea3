//! The store on a real PostgreSQL: one database per test.
#![allow(clippy::unwrap_used)]

mod accounts;
mod aliases;
mod canaries;
mod cancel;
mod claim;
mod deployments;
mod embedded;
mod ends;
mod fencing;
mod fixtures;
mod gangs;
mod idempotency;
mod isolation;
mod lineage;
mod notifications;
mod paging;
mod parents;
mod replicas;
mod requests;
mod rescue;
mod rollouts;
mod schema;
mod tombstones;
