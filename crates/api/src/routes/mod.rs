//! The operations: extract, call `app`, convert. One file per resource.

pub(crate) mod accounts;
pub(crate) mod adapters;
pub(crate) mod api_keys;
pub(crate) mod base_models;
pub(crate) mod datasets;
pub(crate) mod deployments;
pub(crate) mod exports;
pub(crate) mod jobs;
pub(crate) mod probes;

use axum::http::{HeaderName, HeaderValue, header};
use tunesmith_types::names::ResourceName;

use crate::error::ApiError;

/// Headers of a file that a browser should save.
fn download_headers(media_type: &'static str, file_name: &str, bytes: u64) -> [(HeaderName, HeaderValue); 4] {
    let disposition = format!("attachment; filename=\"{file_name}\"");
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_LENGTH, HeaderValue::from(bytes)),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ]
}

/// A name in a path: one that breaks the rule is answered like one that is not there.
fn name_in_path(kind: &'static str, text: &str) -> Result<ResourceName, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(kind, text))
}
