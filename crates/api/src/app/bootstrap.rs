//! What the first start of a single-machine installation makes: an owner's key, and the base models that come with it.

use tunesmith_blobs::BlobKey;
use tunesmith_store::api_keys::{self, NewApiKey};
use tunesmith_store::base_models::{self, NewBaseModel};
use tunesmith_store::files::StoredFile;
use tunesmith_store::{Store, StoreError, accounts};
use tunesmith_types::ids::{ApiKeyId, BaseModelId, OrganizationId};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Role;
use tunesmith_types::states::BaseModelState;

use super::model_check;
use crate::auth::secret::{digest, hint, new_api_key};
use crate::error::ApiError;
use crate::state::ApiState;

/// A key that was just made, with its secret.
#[derive(Clone)]
pub struct OwnerKey {
    /// The organization that it acts for.
    pub organization_id: OrganizationId,
    /// The key.
    pub id: ApiKeyId,
    /// The secret, which is stored nowhere.
    pub secret: String,
}

/// Makes an owner key of the default organization, and the organization where it is missing.
///
/// # Errors
/// The database fails.
pub async fn owner_key(store: &Store, name: &str) -> Result<OwnerKey, ApiError> {
    let organization = accounts::default_organization(store).await?;
    let secret = new_api_key();
    let new = NewApiKey {
        name,
        role: Role::Owner,
        created_by: None,
        secret_sha256: digest(&secret),
        display_prefix: &hint(&secret),
        expires_at: None,
    };
    let key = api_keys::create(store, organization.id, &new).await?;
    Ok(OwnerKey {
        organization_id: organization.id,
        id: key.id,
        secret,
    })
}

/// Whether the secret still works as a key of the default organization's owner.
///
/// # Errors
/// The database fails.
pub async fn is_owner_key(store: &Store, secret: &str) -> Result<bool, ApiError> {
    let organization = accounts::default_organization(store).await?;
    let principal = api_keys::authenticate(store, &digest(secret)).await?;
    Ok(principal.is_some_and(|p| p.organization_id == organization.id && p.role == Role::Owner))
}

/// Registers a base model for all organizations, unless there is one of this name already. What an earlier start left
/// unfinished is made anew.
///
/// # Errors
/// The files make no model that can be trained, or a store fails.
pub async fn register_shared_model(
    state: &ApiState,
    name: &str,
    contents: &'static [(&'static str, &'static [u8])],
) -> Result<(), ApiError> {
    let name = ResourceName::parse("name", name)?;
    let ready = match base_models::find_shared(&state.store, name.as_str()).await {
        Ok(model) => model.state == BaseModelState::Ready,
        Err(StoreError::NotFound(_)) => false,
        Err(error) => return Err(error.into()),
    };
    if ready {
        return Ok(());
    }
    let id = BaseModelId::new();
    base_models::discard_unfinished(&state.store, None, &name).await?;
    base_models::create(
        &state.store,
        &NewBaseModel {
            id,
            owner: None,
            name: &name,
            created_by: None,
        },
    )
    .await?;
    let mut files = Vec::with_capacity(contents.len());
    for (file, bytes) in contents {
        let unknown = |_| ApiError::Unexpected("a bundled file that has no place in a model");
        let key = BlobKey::base_model_file(id, file).map_err(unknown)?;
        let stored = state.blobs.put_bytes(&key, *bytes).await?;
        let (name, sha256) = ((*file).to_owned(), stored.sha256.to_string());
        files.push(StoredFile {
            name,
            key: key.to_string(),
            sha256,
            bytes: stored.bytes,
        });
    }
    let checked = model_check::check(&state.blobs, &files).await?;
    let checked = checked.map_err(|problems| {
        tracing::error!(%name, %problems, "a bundled base model is not usable");
        ApiError::Unexpected("a bundled base model that is not usable")
    })?;
    super::base_models::finish(state, None, id, files, checked).await
}
