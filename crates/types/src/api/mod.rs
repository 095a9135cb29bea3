//! Request and response bodies of the public API, one file per resource.
//!
//! Requests refuse unknown fields. In every body, times are unix seconds, sizes are bytes, and `object` names the kind.

pub mod adapters;
pub mod aliases;
pub mod api_keys;
pub mod auth;
pub mod base_models;
pub mod datasets;
pub mod deployments;
pub mod exports;
pub mod feedback;
pub mod jobs;
pub mod lineage;
pub mod rollouts;
pub mod usage;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to a DELETE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// The id of what is gone.
    pub id: String,
    /// The kind of what is gone.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

impl Deleted {
    /// The answer for the `object` with this id.
    #[must_use]
    pub fn new(object: &str, id: impl ToString) -> Self {
        Self {
            id: id.to_string(),
            object: object.to_owned(),
            deleted: true,
        }
    }
}
