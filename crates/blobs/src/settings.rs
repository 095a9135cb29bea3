//! Which S3-compatible server, and as whom.

use std::fmt;

/// A key pair of an S3-compatible server.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// `AWS_ACCESS_KEY_ID`
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret_access_key: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// What [`Blobs::connect`](crate::Blobs::connect) needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSettings {
    /// Address of the server, called with the bucket in the path; none means Amazon's own for the region.
    pub endpoint: Option<String>,
    /// The one bucket that holds everything.
    pub bucket: String,
    /// Region, also where the server knows none (`us-east-1`).
    pub region: String,
    /// Key pair; none means Amazon's usual chain (environment, profile, instance role).
    pub credentials: Option<S3Credentials>,
}
