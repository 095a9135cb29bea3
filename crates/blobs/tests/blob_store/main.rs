//! One suite for every S3-compatible server, and what the embedded one does beyond it.
//!
//! The suite runs against the embedded server always, and against the one that `S3_ENDPOINT`, `S3_BUCKET`, `S3_REGION`,
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` name where they are set.
#![allow(clippy::unwrap_used)]

mod blob_store_suite;
mod embedded;
mod support;
