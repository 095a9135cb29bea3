//! The registry: adapters, their versions, and the ways to take a version home.

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use tunesmith_blobs::BlobError;
use tunesmith_store::files::StoredFile;
use tunesmith_store::{adapters, tombstones};
use tunesmith_types::api::adapters as body;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::reason::Reason;
use tunesmith_types::version_reference::VersionReference;

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

/// The versions of an adapter; deleted ones on demand.
///
/// # Errors
/// The organization has no such adapter, or the page request is wrong.
pub async fn versions(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    query: &body::ListVersionsQuery,
) -> Result<List<body::AdapterVersion>, ApiError> {
    let page = PageQuery {
        after: query.after.clone(),
        limit: query.limit,
    };
    let page = page.parse()?;
    adapters::find(&state.store, caller.organization_id, name.as_str())
        .await
        .or_not_found(KIND, name)?;
    let organization = caller.organization_id;
    let rows = if query.include_deleted {
        adapters::all_versions(&state.store, organization, name.as_str(), &page).await?
    } else {
        adapters::versions(&state.store, organization, name.as_str(), &page).await?
    };
    let data = rows.rows.into_iter().map(version_view).collect();
    Ok(List::new(
        data,
        rows.has_more,
        |version: &body::AdapterVersion| version.id.to_string(),
    ))
}

/// One version, deleted or not.
///
/// # Errors
/// The organization has no such version.
pub async fn version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<body::AdapterVersion, ApiError> {
    Ok(version_view(resolve(state, caller, name, reference).await?))
}

/// The row of one version, for its download.
///
/// # Errors
/// The organization has no such version, or it is deleted.
pub async fn stored_version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<adapters::AdapterVersion, ApiError> {
    let version = resolve(state, caller, name, reference).await?;
    require_present(&version)?;
    Ok(version)
}

async fn resolve(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<adapters::AdapterVersion, ApiError> {
    adapters::resolve_reference(&state.store, caller.organization_id, name, reference)
        .await
        .or_not_found(VERSION_KIND, format!("{name}@{reference}"))
}

/// Refuses a deleted version.
///
/// # Errors
/// It is deleted.
pub(super) fn require_present(version: &adapters::AdapterVersion) -> Result<(), ApiError> {
    let Some(deletion) = &version.deletion else {
        return Ok(());
    };
    let message = format!(
        "`{}@{}` was deleted on {}; only its manifest is left.",
        version.adapter,
        version.number,
        deletion.deleted_at.format("%Y-%m-%d")
    );
    Err(ApiError::Gone {
        code: "version_deleted",
        message,
    })
}

/// Deletes a version for good: its files go, its number, digest and manifest stay. Deleting it again removes files
/// that an earlier call could not.
///
/// # Errors
/// The organization has no such version, or an alias or a deployment uses it.
pub async fn delete_version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    number: i32,
    query: &body::DeleteVersionQuery,
) -> Result<body::AdapterVersion, ApiError> {
    let organization = caller.organization_id;
    let reason = Reason::parse("reason", query.reason.as_deref())?;
    let reason = reason.as_ref().map(Reason::as_str);
    let version = tombstones::delete_version(
        &state.store,
        organization,
        name.as_str(),
        number,
        caller.user_id,
        reason,
    )
    .await
    .or_not_found(VERSION_KIND, format!("{name}@{number}"))?;
    tracing::info!(%version, %name, number, "version deleted");
    for key in tombstones::orphaned_keys(&state.store, organization, version).await? {
        let key = key.parse().map_err(BlobError::Key)?;
        state.blobs.delete(&key).await?;
    }
    let deleted = adapters::version(&state.store, organization, version).await?;
    Ok(version_view(deleted))
}

/// The files of a version, each with an address that works for a while without credentials.
///
/// # Errors
/// The organization has no such version, or it is deleted.
pub async fn files(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<body::DownloadableFiles, ApiError> {
    let version = stored_version(state, caller, name, reference).await?;
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
        adapters::find_any_version(&state.store, caller.organization_id, adapter.name.as_str(), None).await;
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

/// A version.
pub(super) fn version_view(version: adapters::AdapterVersion) -> body::AdapterVersion {
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
        checkpoint_step: version.checkpoint_step,
        parent_version_id: version.parent_version_id,
        created_at: version.created_at.timestamp(),
        deleted_at: version.deletion.as_ref().map(|d| d.deleted_at.timestamp()),
        deleted_by: version.deletion.as_ref().and_then(|d| d.deleted_by),
        deletion_reason: version.deletion.and_then(|d| d.reason),
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
