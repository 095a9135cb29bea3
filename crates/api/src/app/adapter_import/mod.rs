//! Adapters that were trained elsewhere: a PEFT folder in a tar archive becomes a version. Nothing of it is trusted, and
//! nothing of it is stored as it came.

mod archive;
mod base_copies;
mod config;
mod places;
mod tensors;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::pin;

use axum::body::Body;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tunesmith_blobs::{BlobError, BlobKey};
use tunesmith_store::adapters::NewAdapterVersion;
use tunesmith_store::base_models::{BaseModel, BaseModelDetails};
use tunesmith_store::files::StoredFile;
use tunesmith_store::manifest::{canonical_digest, imported_manifest};
use tunesmith_store::{adapters, imports};
use tunesmith_types::api::adapters as body;
use tunesmith_types::hyperparameters::Hyperparameters;
use tunesmith_types::ids::{AdapterVersionId, OrganizationId};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use uuid::Uuid;

use super::adapter_check::{CONFIG, TENSORS};
use super::adapters::version_view;
use super::base_models;
use super::datasets::impatient;
use super::model_check::{ModelModules, Problems};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;
use base_copies::BaseCopy;
pub use places::ImportPlaces;

/// Longest archive.
const MOST_ARCHIVE_BYTES: u64 = 4 << 30;

/// The answer, and whether this call made the version.
#[derive(Debug)]
pub struct ImportedAdapter {
    /// The version and what was left out.
    pub answer: body::ImportedAdapterVersion,
    /// Whether it is new.
    pub is_new: bool,
}

/// A folder that was checked and written anew.
struct Checked {
    hyperparameters: Hyperparameters,
    config: Vec<u8>,
    tensors: NamedTempFile,
    tensor_bytes: u64,
    tensor_digest: String,
    ignored: Vec<String>,
}

/// What a look at an archive gave.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    /// Still to be compared with the base model.
    copies: Vec<BaseCopy>,
    /// None where there are problems.
    checked: Option<Checked>,
}

impl Findings {
    fn refused(problems: Vec<String>) -> Self {
        Self {
            problems,
            ..Self::default()
        }
    }
}

/// Makes the next version of an adapter from an archive. The same adapter again gives the same version.
///
/// # Errors
/// The name breaks its rule, the organization sees no such base model or it is not ready, too many imports are under way, the
/// archive is too large, or it holds no adapter of this model; the message lists what is wrong.
pub async fn import(
    state: &ApiState,
    caller: &Principal,
    name: &str,
    query: &body::ImportAdapterQuery,
    content: Body,
) -> Result<ImportedAdapter, ApiError> {
    let organization = caller.organization_id;
    let name = ResourceName::parse("name", name)?;
    let model = base_models::lookup(state, organization, &query.base_model).await;
    let model = model.or_unknown(base_models::KIND, "base_model", &query.base_model)?;
    let details = ready(&model)?;
    let _place = state.imports.take(organization)?;
    let (archive, length) = stage(content).await?;
    let checked = checked(state, &model, details, archive, length).await?;
    let (version, is_new) = publish(state, organization, &name, &model, details, &checked).await?;
    let version = adapters::version(&state.store, organization, version).await?;
    tracing::info!(version = %version.id, %name, is_new, "adapter imported");
    Ok(ImportedAdapter {
        answer: body::ImportedAdapterVersion {
            version: version_view(version),
            ignored_files: checked.ignored,
        },
        is_new,
    })
}

/// Checks an archive on a thread of its own, and what it says of the base model's weights against them.
async fn checked(
    state: &ApiState,
    model: &BaseModel,
    details: &BaseModelDetails,
    archive: File,
    length: u64,
) -> Result<Checked, ApiError> {
    let modules = ModelModules::read(&details.config).ok_or(ApiError::Unexpected(
        "a ready base model whose layers are unknown",
    ))?;
    let base_name = model.name.to_string();
    let findings = tokio::task::spawn_blocking(move || check(archive, length, &modules, &base_name)).await;
    let Findings {
        mut problems,
        copies,
        checked,
    } = findings
        .map_err(|_| ApiError::Unexpected("the check of an archive panicked"))?
        .map_err(|error| disk(&error))?;
    problems.extend(base_copies::compare(&state.blobs, &details.files, &copies).await?);
    checked
        .filter(|_| problems.is_empty())
        .ok_or_else(|| ApiError::Invalid {
            code: "adapter_refused",
            param: None,
            message: format!(
                "This is no adapter of base model `{}`. {}",
                model.name,
                Problems::new(problems)
            ),
        })
}

fn ready(model: &BaseModel) -> Result<&BaseModelDetails, ApiError> {
    model.details.as_ref().ok_or_else(|| ApiError::Conflict {
        code: "base_model_not_ready",
        param: Some("base_model"),
        message: format!(
            "The base model `{}` is {}; only a ready one can get an adapter.",
            model.name, model.state
        ),
    })
}

fn disk(error: &io::Error) -> ApiError {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "an archive cannot be staged"
    );
    ApiError::Unexpected("an archive cannot be staged")
}

/// Writes the body into a file that nobody else can open.
async fn stage(content: Body) -> Result<(File, u64), ApiError> {
    let file = tempfile::tempfile().map_err(|error| disk(&error))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut pieces = pin!(impatient(content));
    let mut length = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| ApiError::Invalid {
            code: "body_incomplete",
            param: None,
            message: "The body broke off before its end; nothing was stored. Upload it again.".to_owned(),
        })?;
        length += piece.len() as u64;
        if length > MOST_ARCHIVE_BYTES {
            return Err(ApiError::TooLarge {
                limit: MOST_ARCHIVE_BYTES,
            });
        }
        file.write_all(&piece).await.map_err(|error| disk(&error))?;
    }
    file.flush().await.map_err(|error| disk(&error))?;
    Ok((file.into_std().await, length))
}

/// Looks at everything and collects what is wrong. The outer error is the disk's.
fn check(mut archive: File, length: u64, model: &ModelModules, base_model: &str) -> io::Result<Findings> {
    let contents = archive::list(&mut archive, length);
    let mut problems = contents.problems;
    let (Some(config), Some(tensors), true) = (contents.config, contents.tensors, problems.is_empty()) else {
        return Ok(Findings::refused(problems));
    };
    let mut text = Vec::new();
    archive.seek(SeekFrom::Start(config.offset))?;
    (&archive).take(config.bytes).read_to_end(&mut text)?;
    let hyperparameters = config::read(&text, model).map_err(|found| problems.extend(found));
    let header = tensors::read_header(&mut archive, tensors)?;
    let header = header.map_err(|reason| problems.push(format!("{TENSORS}: {reason}")));
    let (Ok(hyperparameters), Ok((mut header, data))) = (hyperparameters, header) else {
        return Ok(Findings::refused(problems));
    };
    let copies = base_copies::take(&mut archive, &mut header, data)?;
    problems.extend(tensors::compare(&header, &hyperparameters, model));
    let mut written = NamedTempFile::new()?;
    let infinite = tensors::rewrite(&mut archive, &header, data, written.as_file_mut())?;
    problems.extend(
        infinite
            .iter()
            .map(|name| format!("Tensor `{name:.160}` holds a number that is not finite.")),
    );
    let checked = match problems.is_empty() {
        true => Some(finished(
            hyperparameters,
            written,
            contents.ignored,
            model,
            base_model,
        )?),
        false => None,
    };
    Ok(Findings {
        problems,
        copies,
        checked,
    })
}

fn finished(
    hyperparameters: Hyperparameters,
    mut tensors: NamedTempFile,
    ignored: Vec<String>,
    model: &ModelModules,
    base_model: &str,
) -> io::Result<Checked> {
    let mut hash = Sha256::new();
    tensors.as_file_mut().seek(SeekFrom::Start(0))?;
    let tensor_bytes = io::copy(tensors.as_file_mut(), &mut hash)?;
    let config = config::write(&hyperparameters, model, base_model);
    Ok(Checked {
        config: format!("{config:#}\n").into_bytes(),
        hyperparameters,
        tensors,
        tensor_bytes,
        tensor_digest: hex::encode(hash.finalize()),
        ignored,
    })
}

/// Uploads the files and makes the version, where it is not there already.
async fn publish(
    state: &ApiState,
    organization: OrganizationId,
    name: &ResourceName,
    model: &BaseModel,
    details: &BaseModelDetails,
    checked: &Checked,
) -> Result<(AdapterVersionId, bool), ApiError> {
    let import = Uuid::new_v4();
    let key = |file| BlobKey::imported_adapter_file(organization, import, file).map_err(BlobError::Key);
    let (config, tensors) = (key(CONFIG)?, key(TENSORS)?);
    let file = |name: &str, key: &BlobKey, sha256: String, bytes| StoredFile {
        name: name.to_owned(),
        key: key.to_string(),
        sha256,
        bytes,
    };
    let config_digest = hex::encode(Sha256::digest(&checked.config));
    let files = vec![
        file(CONFIG, &config, config_digest, checked.config.len() as u64),
        file(
            TENSORS,
            &tensors,
            checked.tensor_digest.clone(),
            checked.tensor_bytes,
        ),
    ];
    let facts = config::facts(&checked.hyperparameters);
    let manifest = imported_manifest(model, details, &facts, &files);
    let digest = canonical_digest(&manifest);
    if let Some(version) = imports::find(&state.store, organization, name, &digest).await? {
        return Ok((version, false));
    }
    state.blobs.put_bytes(&config, checked.config.clone()).await?;
    state.blobs.put_file(&tensors, checked.tensors.path()).await?;
    let new = NewAdapterVersion {
        digest,
        manifest,
        files,
        metrics: serde_json::json!({}),
    };
    let published = imports::publish(&state.store, organization, name, model.id, &new).await;
    // Somebody else was first, or the base model is gone.
    if !matches!(published, Ok((_, true))) {
        for key in [&config, &tensors] {
            state.blobs.delete(key).await?;
        }
    }
    Ok(published?)
}
