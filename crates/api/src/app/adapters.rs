//! The registry: adapters, their versions, and the ways to take a version home.

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use tunesmith_blobs::BlobError;
use tunesmith_store::adapters;
use tunesmith_store::files::StoredFile;
use tunesmith_types::api::adapters as body;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;

use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "adapter";
/// What people call one of its versions.
pub const VERSION_KIND: &str = "adapter version";
/// Queries at a time for the newest versions of a page.
const PARALLEL: usize = 4;

/// The organization's adapters, each with its newest version.
///
/// # Errors
/// The page request is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &PageQuery,
) -> Result<List<body::Adapter>, ApiError> {
    let page = query.parse()?;
    let rows = adapters::list(&state.store, caller.organization_id, &page).await?;
    let has_more = rows.has_more;
    let views = rows.rows.into_iter().map(|adapter| view(state, caller, adapter));
    let data: Vec<body::Adapter> = futures::stream::iter(views)
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    Ok(List::new(data, has_more, |adapter: &body::Adapter| {
        adapter.id.to_string()
    }))
}

/// One adapter.
///
/// # Errors
/// The organization has no such adapter.
pub async fn get(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Adapter, ApiError> {
    let found = adapters::find(&state.store, caller.organization_id, name.as_str()).await;
    view(state, caller, found.or_not_found(KIND, name)?).await
}

/// The versions of an adapter.
///
/// # Errors
/// The organization has no such adapter, or the page request is wrong.
pub async fn versions(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    query: &PageQuery,
) -> Result<List<body::AdapterVersion>, ApiError> {
    let page = query.parse()?;
    adapters::find(&state.store, caller.organization_id, name.as_str())
        .await
        .or_not_found(KIND, name)?;
    let rows = adapters::versions(&state.store, caller.organization_id, name.as_str(), &page).await?;
    let data = rows.rows.into_iter().map(version_view).collect();
    Ok(List::new(
        data,
        rows.has_more,
        |version: &body::AdapterVersion| version.id.to_string(),
    ))
}

/// One version.
///
/// # Errors
/// The organization has no such version.
pub async fn version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    number: i32,
) -> Result<body::AdapterVersion, ApiError> {
    Ok(version_view(stored_version(state, caller, name, number).await?))
}

/// The row of one version, for its download.
///
/// # Errors
/// The organization has no such version.
pub async fn stored_version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    number: i32,
) -> Result<adapters::AdapterVersion, ApiError> {
    let found =
        adapters::find_version(&state.store, caller.organization_id, name.as_str(), Some(number)).await;
    found.or_not_found(VERSION_KIND, format!("{name}@{number}"))
}

/// The files of a version, each with an address that works for a while without credentials.
///
/// # Errors
/// The organization has no such version.
pub async fn files(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    number: i32,
) -> Result<body::DownloadableFiles, ApiError> {
    let version = stored_version(state, caller, name, number).await?;
    downloadable_files(state, &version.files).await
}

/// Files by name, each with an address.
pub(super) async fn downloadable_files(
    state: &ApiState,
    files: &[StoredFile],
) -> Result<body::DownloadableFiles, ApiError> {
    let lifetime = state.settings.download_link_lifetime;
    let url_expires_at = (Utc::now() + lifetime).timestamp();
    let mut data = Vec::with_capacity(files.len());
    for file in files {
        let key = file.key.parse().map_err(BlobError::Key)?;
        let url = state.blobs.presign_get(&key, lifetime, Some(&file.name)).await?;
        data.push(body::DownloadableFile {
            file: file_view(file),
            url,
            url_expires_at,
        });
    }
    data.sort_by(|one, other| one.file.name.cmp(&other.file.name));
    Ok(body::DownloadableFiles {
        object: "list".to_owned(),
        data,
    })
}

async fn view(
    state: &ApiState,
    caller: &Principal,
    adapter: adapters::Adapter,
) -> Result<body::Adapter, ApiError> {
    let newest =
        adapters::find_version(&state.store, caller.organization_id, adapter.name.as_str(), None).await;
    let newest = newest.or_not_found(VERSION_KIND, &adapter.name)?;
    Ok(body::Adapter {
        id: adapter.id,
        object: "adapter".to_owned(),
        name: adapter.name.to_string(),
        base_model: newest.base_model,
        latest_version: newest.number,
        created_at: adapter.created_at.timestamp(),
    })
}

fn version_view(version: adapters::AdapterVersion) -> body::AdapterVersion {
    body::AdapterVersion {
        id: version.id,
        object: "adapter_version".to_owned(),
        reference: format!("{}@{}", version.adapter, version.number),
        adapter: version.adapter.to_string(),
        number: version.number,
        digest: version.digest.to_string(),
        bytes: version.bytes,
        base_model: version.base_model,
        base_model_id: version.base_model_id,
        job_id: version.job_id,
        manifest: version.manifest,
        metrics: version.metrics,
        files: version.files.iter().map(file_view).collect(),
        created_at: version.created_at.timestamp(),
    }
}

/// A stored file without its place.
pub(super) fn file_view(file: &StoredFile) -> body::StoredFile {
    body::StoredFile {
        name: file.name.clone(),
        bytes: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        sha256: file.sha256.clone(),
    }
}
