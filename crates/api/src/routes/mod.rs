//! The operations: extract, call `app`, convert. One file per resource.

pub(crate) mod accounts;
pub(crate) mod adapters;
pub(crate) mod aliases;
pub(crate) mod api_keys;
pub(crate) mod base_models;
pub(crate) mod checkpoints;
pub(crate) mod datasets;
pub(crate) mod deployments;
pub(crate) mod exports;
pub(crate) mod feedback;
pub(crate) mod jobs;
pub(crate) mod lineage;
pub(crate) mod probes;
pub(crate) mod rollouts;
pub(crate) mod usage;

use axum::http::{HeaderName, HeaderValue, header};
use tunesmith_types::names::ResourceName;
use tunesmith_types::version_reference::VersionReference;

use crate::app::adapters::VERSION_KIND;
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

/// An adapter and which of its versions; what breaks the rules is answered like what is not there.
fn version_in_path(name: &str, version: &str) -> Result<(ResourceName, VersionReference), ApiError> {
    let absent = || ApiError::not_found(VERSION_KIND, format!("{name}@{version}"));
    let name = name.parse().map_err(|_| absent())?;
    Ok((name, version.parse().map_err(|_| absent())?))
}
