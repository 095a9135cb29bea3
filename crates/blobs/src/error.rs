//! What can go wrong with a blob.

use std::{error::Error, path::PathBuf};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::keys::InvalidKey;

/// An error of somebody else's code.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("there is no blob `{key}`")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The blob is larger than the caller wants to hold.
    #[error("blob `{key}` has more than {limit} bytes")]
    TooLarge {
        /// Its key.
        key: String,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// The bytes are not those whose sha256 was recorded.
    #[error("blob `{key}` is corrupt: its sha256 is {actual}, recorded is {expected}")]
    DigestMismatch {
        /// Its key.
        key: String,
        /// What the row says.
        expected: String,
        /// What the bytes say.
        actual: String,
    },
    /// The body that was to be stored ended with an error; nothing was stored.
    #[error("the source of blob `{key}` failed")]
    Source {
        /// Its key.
        key: String,
        /// The source's own error.
        #[source]
        source: BoxError,
    },
    /// A file on this machine could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// The server refused, failed or could not be reached, after all retries.
    #[error("object store: {operation} of `{target}` failed: {reason}")]
    Request {
        /// S3's name of the call.
        operation: &'static str,
        /// Key, prefix or bucket.
        target: String,
        /// S3's error code, or what kept the request from being answered.
        reason: String,
        /// The SDK's error.
        #[source]
        source: BoxError,
    },
    /// The server does not keep a promise that the platform needs.
    #[error("the object store failed its self-test: {promise}")]
    SelfTest {
        /// What it should do.
        promise: &'static str,
        /// What it did, where a request failed.
        #[source]
        source: Option<Box<BlobError>>,
    },
    /// A listing named a key that none of our programs made.
    #[error("unexpected key in the bucket")]
    Key(#[from] InvalidKey),
}

impl BlobError {
    pub(crate) fn request<E>(
        operation: &'static str,
        target: impl Into<String>,
        error: SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let target = target.into();
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let missing = matches!(code.as_deref(), Some("NoSuchKey" | "NotFound"));
        if missing || (code.is_none() && status == Some(404)) {
            return Self::NotFound { key: target };
        }
        let reason = code.unwrap_or_else(|| match (&error, status) {
            (SdkError::TimeoutError(_), _) => "no answer in time".to_owned(),
            (SdkError::DispatchFailure(_), _) => "the server cannot be reached".to_owned(),
            (_, Some(status)) => format!("status {status}"),
            _ => "the request could not be made".to_owned(),
        });
        Self::Request {
            operation,
            target,
            reason,
            source: Box::new(error),
        }
    }

    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Request { .. })
    }

    /// Whether this machine's disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}
