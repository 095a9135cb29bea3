//! The object store: every blob of Tunesmith, in any S3-compatible server.
//!
//! Blobs are immutable and addressed by a typed [`BlobKey`], which is made from ids and allow-listed file names, never
//! from a user's string. A blob counts only once a committed database row names its key and sha256; nothing here
//! rests on conditional writes, which S3-compatible servers implement differently.
//!
//! [`Blobs`] is the client. [`embedded::EmbeddedS3`] is the server that `tunesmith up` starts on loopback; the same
//! suite (`tests/blob_store`) runs against it and against any external server.

mod client;
mod download;
pub mod embedded;
mod error;
pub mod keys;
mod self_test;
mod settings;
mod upload;

pub use client::{BlobEntry, BlobInfo, Blobs};
pub use download::{BlobBody, BlobStream};
pub use error::BlobError;
pub use keys::{BlobKey, BlobPrefix};
pub use settings::{BlobSettings, S3Credentials};
pub use upload::StoredBlob;
