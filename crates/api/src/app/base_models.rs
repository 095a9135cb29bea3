//! Base models: registered file by file or from the bucket, checked, and frozen.

use axum::body::Body;
use sha2::{Digest, Sha256};
use tunesmith_blobs::keys::BASE_MODEL_FILES;
use tunesmith_blobs::{BlobKey, BlobPrefix};
use tunesmith_store::base_models::{self, BaseModelDetails, NewBaseModel};
use tunesmith_store::files::StoredFile;
use tunesmith_types::api::adapters::StoredFile as StoredFileBody;
use tunesmith_types::api::base_models as body;
use tunesmith_types::ids::{BaseModelId, OrganizationId};
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::{ResourceName, Sha256Digest};
use tunesmith_types::principal::Principal;
use tunesmith_types::states::BaseModelState;

use super::adapters::file_view;
use super::datasets::{impatient, incomplete};
use super::model_check::{self, CheckedModel};
use super::model_import;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "base model";

/// Begins a registration. With an `s3_prefix` the files are copied behind the answer; else they are uploaded next.
/// A registration of the same name that was never completed is replaced.
///
/// # Errors
/// The name breaks its rule or is taken, or the prefix holds nothing.
pub async fn create(
    state: &ApiState,
    caller: &Principal,
    request: &body::CreateBaseModelRequest,
) -> Result<body::BaseModel, ApiError> {
    let name = ResourceName::parse("name", &request.name)?;
    let source = match &request.s3_prefix {
        Some(prefix) => Some(model_import::find(state, prefix).await?),
        None => None,
    };
    let id = BaseModelId::new();
    let owner = Some(caller.organization_id);
    base_models::discard_unfinished(&state.store, owner, &name).await?;
    let new = NewBaseModel {
        id,
        owner,
        name: &name,
        created_by: caller.user_id,
    };
    base_models::create(&state.store, &new).await?;
    if let Some(source) = source {
        model_import::begin(state, caller.organization_id, id, source);
    }
    get(state, caller, &id.to_string()).await
}

/// Stores one file of a registration that is not complete; a file that is there already is replaced.
///
/// # Errors
/// The organization has no such registration, it is complete, or the file has no place in a model.
pub async fn put_file(
    state: &ApiState,
    caller: &Principal,
    id: BaseModelId,
    name: &str,
    content: Body,
) -> Result<StoredFileBody, ApiError> {
    require_pending(state, caller, id).await?;
    let key = BlobKey::base_model_file(id, name).map_err(|_| {
        let known = BASE_MODEL_FILES.join(", ");
        let message =
            format!("`{name:.80}` is no file of a model; these are taken: {known}, and numbered shards.");
        ApiError::Invalid {
            code: "unknown_file",
            param: Some("file".to_owned()),
            message,
        }
    })?;
    let stored = state
        .blobs
        .put_stream(&key, impatient(content))
        .await
        .map_err(incomplete)?;
    let file = StoredFile {
        name: name.to_owned(),
        key: key.to_string(),
        sha256: stored.sha256.to_string(),
        bytes: stored.bytes,
    };
    let recorded = base_models::record_file(&state.store, Some(caller.organization_id), id, &file).await;
    recorded.or_not_found(KIND, id)?;
    Ok(file_view(&file))
}

/// Checks all files of a registration and freezes it.
///
/// # Errors
/// The organization has no such registration, or the files make no model; the message lists what is wrong, and more
/// files may then be uploaded.
pub async fn complete(
    state: &ApiState,
    caller: &Principal,
    id: BaseModelId,
) -> Result<body::BaseModel, ApiError> {
    let model = require_pending(state, caller, id).await?;
    if model.state == BaseModelState::Ready {
        return Ok(view(model));
    }
    let files = model.files;
    let checked = model_check::check(&state.blobs, &files)
        .await?
        .map_err(|problems| ApiError::Invalid {
            code: "base_model_incomplete",
            param: None,
            message: format!("These files make no model that can be trained. {problems}"),
        })?;
    finish(state, Some(caller.organization_id), id, files, checked).await?;
    get(state, caller, &id.to_string()).await
}

/// Freezes a checked model.
///
/// # Errors
/// The registration is gone, or the database fails.
pub(super) async fn finish(
    state: &ApiState,
    owner: Option<OrganizationId>,
    id: BaseModelId,
    mut files: Vec<StoredFile>,
    checked: CheckedModel,
) -> Result<(), ApiError> {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let parse = |digest: &str| {
        digest
            .parse::<Sha256Digest>()
            .map_err(|_| ApiError::Unexpected("a sha256 that is none of 64 digits"))
    };
    let details = BaseModelDetails {
        digest: parse(&digest_of(&files))?,
        tokenizer_digest: parse(&checked.tokenizer_digest)?,
        template_digest: checked.template_digest.as_deref().map(parse).transpose()?,
        parameters: i64::try_from(checked.architecture.parameters).unwrap_or(i64::MAX),
        max_seq_len: checked.architecture.max_position_embeddings,
        config: checked.config,
        files,
    };
    base_models::complete(&state.store, owner, id, &details)
        .await
        .or_not_found(KIND, id)
}

/// sha256 over the sorted lines `<sha256>  <name>`, as `sha256sum * | sha256sum` gives it.
fn digest_of(files: &[StoredFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(format!("{}  {}\n", file.sha256, file.name));
    }
    hex::encode(hash.finalize())
}

/// The models that the organization may see.
///
/// # Errors
/// The page request is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &PageQuery,
) -> Result<List<body::BaseModel>, ApiError> {
    let page = query.parse()?;
    let rows = base_models::list(&state.store, caller.organization_id, &page).await?;
    let data = rows.rows.into_iter().map(view).collect();
    Ok(List::new(data, rows.has_more, |model: &body::BaseModel| {
        model.id.to_string()
    }))
}

/// One model, by id or name.
///
/// # Errors
/// The organization sees no such model.
pub async fn get(state: &ApiState, caller: &Principal, reference: &str) -> Result<body::BaseModel, ApiError> {
    let found = lookup(state, caller.organization_id, reference).await;
    Ok(view(found.or_not_found(KIND, reference)?))
}

/// Takes a model of the organization away that nothing was made from.
///
/// # Errors
/// The organization has no such model, or something was made from it.
pub async fn delete(state: &ApiState, caller: &Principal, reference: &str) -> Result<BaseModelId, ApiError> {
    let model = lookup(state, caller.organization_id, reference)
        .await
        .or_not_found(KIND, reference)?;
    if model.organization_id != Some(caller.organization_id) {
        let message = "This model is shared by all organizations; it cannot be taken away from here.";
        return Err(ApiError::conflict("base_model_shared", message));
    }
    base_models::delete(&state.store, caller.organization_id, model.id)
        .await
        .or_not_found(KIND, reference)?;
    if let Err(error) = state.blobs.delete_all(&BlobPrefix::base_model(model.id)).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(base_model = %model.id, error, "a deleted base model's files are left behind");
    }
    Ok(model.id)
}

/// The model that a request names by id or name.
///
/// # Errors
/// [`tunesmith_store::StoreError::NotFound`].
pub(super) async fn lookup(
    state: &ApiState,
    organization: OrganizationId,
    reference: &str,
) -> Result<base_models::BaseModel, tunesmith_store::StoreError> {
    match reference.parse::<BaseModelId>() {
        Ok(id) => base_models::get(&state.store, organization, id).await,
        Err(_) if reference.parse::<ResourceName>().is_err() => {
            Err(tunesmith_store::StoreError::NotFound(KIND))
        }
        Err(_) => base_models::find(&state.store, organization, reference).await,
    }
}

/// The caller's own registration, which must not have ended.
async fn require_pending(
    state: &ApiState,
    caller: &Principal,
    id: BaseModelId,
) -> Result<base_models::BaseModel, ApiError> {
    let model = base_models::get(&state.store, caller.organization_id, id)
        .await
        .or_not_found(KIND, id)?;
    if model.organization_id != Some(caller.organization_id) {
        return Err(ApiError::not_found(KIND, id));
    }
    if model.state == BaseModelState::Pending {
        return Ok(model);
    }
    let message = format!(
        "The base model is {} already; its files do not change any more.",
        model.state
    );
    Err(ApiError::conflict("base_model_frozen", message))
}

fn view(model: base_models::BaseModel) -> body::BaseModel {
    let architecture = model.details.as_ref().map(architecture);
    body::BaseModel {
        id: model.id,
        object: "base_model".to_owned(),
        name: model.name.to_string(),
        status: model.state,
        shared: model.organization_id.is_none(),
        digest: model.details.as_ref().map(|details| details.digest.to_string()),
        bytes: model
            .files
            .iter()
            .map(|file| i64::try_from(file.bytes).unwrap_or(i64::MAX))
            .sum(),
        architecture,
        has_chat_template: model
            .details
            .as_ref()
            .map(|details| details.template_digest.is_some()),
        files: model.files.iter().map(file_view).collect(),
        error: model.error.map(|error| error.message),
        created_at: model.created_at.timestamp(),
    }
}

fn architecture(details: &BaseModelDetails) -> body::BaseModelArchitecture {
    let number = |field: &str| {
        let value = details.config.get(field).and_then(serde_json::Value::as_u64);
        value.and_then(|value| u32::try_from(value).ok())
    };
    let heads = number("num_attention_heads").unwrap_or_default();
    body::BaseModelArchitecture {
        model_type: details
            .config
            .get("model_type")
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned(),
        hidden_size: number("hidden_size").unwrap_or_default(),
        num_hidden_layers: number("num_hidden_layers").unwrap_or_default(),
        num_attention_heads: heads,
        num_key_value_heads: number("num_key_value_heads").unwrap_or(heads),
        vocab_size: number("vocab_size").unwrap_or_default(),
        max_position_embeddings: details.max_seq_len,
        parameters: details.parameters.unsigned_abs(),
    }
}
