//! Base models that somebody has put into the bucket under `imports/`, copied to where they never change.

use std::collections::BTreeSet;

use futures::StreamExt;
use tunesmith_blobs::keys::BASE_MODEL_FILES;
use tunesmith_blobs::{BlobError, BlobKey};
use tunesmith_store::base_models;
use tunesmith_store::files::StoredFile;
use tunesmith_store::jobs::JobError;
use tunesmith_types::ids::{BaseModelId, OrganizationId};
use tunesmith_types::names::ResourceName;

use super::base_models::finish;
use super::model_check::{self, MOST_INDEX_BYTES, WEIGHTS_INDEX};
use crate::error::ApiError;
use crate::state::ApiState;

/// The files below `imports/<prefix>/` that have a place in a model; whatever else lies there is left alone.
///
/// # Errors
/// The prefix is no plain name, or holds no such file.
pub async fn find(state: &ApiState, prefix: &str) -> Result<Vec<BlobKey>, ApiError> {
    let folder = prefix.trim_start_matches("imports/").trim_end_matches('/');
    let folder = ResourceName::parse("s3_prefix", folder)?;
    let mut names: BTreeSet<String> = BASE_MODEL_FILES.iter().map(ToString::to_string).collect();
    names.extend(shards(state, &folder).await?);
    let mut found = Vec::new();
    for name in names {
        // A shard that has no place in a model is missed by the check, which then says so.
        let Ok(key) = BlobKey::import_file(&folder, &name) else {
            continue;
        };
        if state.blobs.head(&key).await?.is_some() {
            found.push(key);
        }
    }
    if found.is_empty() {
        let message =
            format!("`imports/{folder}/` holds no file of a model; copy a model folder there first.");
        return Err(ApiError::parameter("s3_prefix", message));
    }
    Ok(found)
}

/// The weight files that the folder's index names; none where there is no readable index.
async fn shards(state: &ApiState, folder: &ResourceName) -> Result<BTreeSet<String>, ApiError> {
    let key = BlobKey::import_file(folder, WEIGHTS_INDEX).map_err(BlobError::Key)?;
    match state.blobs.get_bytes(&key, MOST_INDEX_BYTES).await {
        Ok(bytes) => Ok(model_check::indexed_files(&bytes).unwrap_or_default()),
        Err(BlobError::NotFound { .. } | BlobError::TooLarge { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Copies the files in a task of its own, then completes the registration, or notes why it failed.
pub fn begin(state: &ApiState, organization: OrganizationId, id: BaseModelId, source: Vec<BlobKey>) {
    let state = state.clone();
    tokio::spawn(async move {
        let Err(error) = copy_and_finish(&state, organization, id, source).await else {
            return;
        };
        tracing::warn!(base_model = %id, error = &error as &dyn std::error::Error, "an import failed");
        let detail = error.body().error;
        let reason = JobError {
            code: detail.code.unwrap_or_default(),
            message: detail.message,
        };
        if let Err(error) = base_models::fail(&state.store, Some(organization), id, &reason).await {
            tracing::error!(base_model = %id, error = &error as &dyn std::error::Error, "could not note the failure");
        }
    });
}

async fn copy_and_finish(
    state: &ApiState,
    organization: OrganizationId,
    id: BaseModelId,
    source: Vec<BlobKey>,
) -> Result<(), ApiError> {
    let mut files = Vec::with_capacity(source.len());
    for from in source {
        let name = from.file_name();
        let key = BlobKey::base_model_file(id, name).map_err(BlobError::Key)?;
        let body = state.blobs.get_stream(&from, None).await?;
        let expected = body.bytes;
        let stored = state
            .blobs
            .put_stream(&key, body.stream.map(|piece| piece.map_err(Box::new)))
            .await?;
        if stored.bytes != expected {
            return Err(ApiError::Unexpected("an import's bytes broke off"));
        }
        files.push(StoredFile {
            name: name.to_owned(),
            key: key.to_string(),
            sha256: stored.sha256.to_string(),
            bytes: stored.bytes,
        });
    }
    let checked = model_check::check(&state.blobs, &files)
        .await?
        .map_err(|problems| ApiError::Invalid {
            code: "base_model_incomplete",
            param: None,
            message: format!("The imported files make no model that can be trained. {problems}"),
        })?;
    finish(state, Some(organization), id, files, checked).await
}
