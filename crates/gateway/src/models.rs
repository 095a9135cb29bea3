//! `GET /v1/models`: what an organization can call.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A model that can be called, in OpenAI's form with vLLM's `root` and `parent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Name for the field `model` of a request.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When the deployment or base model was made, in unix seconds.
    pub created: i64,
    /// `organization`, or `tunesmith` for shared base models.
    pub owned_by: String,
    /// Name of the base model under an adapter; null for a base model.
    pub parent: Option<String>,
}

/// All models, newest first. OpenAI's clients expect no pages here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}
