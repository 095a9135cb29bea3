//! Jobs that train a version's adapter further.

use serde::Deserialize;
use tunesmith_store::adapters::{self, AdapterVersion};
use tunesmith_store::base_models::BaseModel;
use tunesmith_types::hyperparameters::AdapterShape;
use tunesmith_types::ids::OrganizationId;
use tunesmith_types::version_reference::AdapterReference;

use super::adapter_check::{CONFIG, TENSORS};
use super::adapters::{VERSION_KIND, require_present};
use super::servability;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// The request's field.
const FIELD: &str = "parent_version";

/// A version that a job can begin with.
#[derive(Debug)]
pub(super) struct JobParent {
    /// The version; the reference is resolved once and for all.
    pub(super) version: AdapterVersion,
    /// What its tensors are bound to.
    pub(super) shape: AdapterShape,
}

impl JobParent {
    /// `name@number`.
    pub(super) fn reference(&self) -> String {
        format!("{}@{}", self.version.adapter, self.version.number)
    }
}

/// The version that `reference` names now, if a job on `model` can begin with it.
///
/// # Errors
/// The reference is none, the organization has no such version, it is deleted, or it adapts another base model.
pub(super) async fn find(
    state: &ApiState,
    organization: OrganizationId,
    model: &BaseModel,
    reference: &str,
) -> Result<JobParent, ApiError> {
    let reference = reference.parse::<AdapterReference>().map_err(|error| {
        ApiError::parameter(FIELD, format!("`{FIELD}`: {error}; `{reference:.80}` was given."))
    })?;
    let version =
        adapters::resolve_reference(&state.store, organization, &reference.adapter, &reference.version)
            .await
            .or_unknown(VERSION_KIND, FIELD, &reference)?;
    require_present(&version)?;
    require_base(&version, model)?;
    let has = |name: &str| version.files.iter().any(|file| file.name == name);
    let shape = AdapterShape::deserialize(&version.manifest["hyperparameters"]);
    match shape {
        Ok(shape) if has(CONFIG) && has(TENSORS) => Ok(JobParent { version, shape }),
        _ => {
            let message = format!(
                "`{}@{}` does not state its rank, alpha and modules, or lacks a file, so it cannot be trained further; \
                 begin with another version.",
                version.adapter, version.number
            );
            Err(invalid("parent_version_unusable", message))
        }
    }
}

fn require_base(version: &AdapterVersion, model: &BaseModel) -> Result<(), ApiError> {
    if version.base_model_id != model.id {
        let message = format!(
            "`{}@{}` was trained on the base model `{}`, but the job is on `{}`; name `{}` as its `base_model`.",
            version.adapter, version.number, version.base_model, model.name, version.base_model
        );
        return Err(invalid("base_model_differs", message));
    }
    match servability::base_objection(version, model) {
        Some(message) => Err(invalid("base_digest_differs", message)),
        None => Ok(()),
    }
}

fn invalid(code: &'static str, message: String) -> ApiError {
    ApiError::Invalid {
        code,
        param: Some(FIELD.to_owned()),
        message,
    }
}
