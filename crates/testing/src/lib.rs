//! What tests share: a database and an object store per test. Only for `[dev-dependencies]`.

pub mod blobs;
pub mod database;

pub use blobs::TestBlobs;
pub use database::TestDatabase;
