//! The one way in which an adapter version comes into being.

use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, JobId, OrganizationId},
    names::Sha256Digest,
};
use uuid::Uuid;

use crate::{
    StoreError,
    error::stored_json,
    files::{StoredFile, to_json},
    manifest::PARENT_FIELD,
};

/// A version to be published.
#[derive(Debug, Clone)]
pub struct NewAdapterVersion {
    /// Over the files.
    pub digest: Sha256Digest,
    /// What serving enforces.
    pub manifest: Value,
    /// Its files; at least one.
    pub files: Vec<StoredFile>,
    /// Final numbers of the training.
    pub metrics: Value,
}

/// What a version is made of.
pub(crate) struct Publication<'a> {
    pub(crate) organization: OrganizationId,
    /// None where the version was trained elsewhere.
    pub(crate) job: Option<JobId>,
    /// None for what the job ended with.
    pub(crate) checkpoint_step: Option<i64>,
    pub(crate) adapter: &'a str,
    pub(crate) base_model: Uuid,
}

/// Inserts the next version of the named adapter in the caller's transaction; the adapter is made with its first.
/// Its parent is the one that the manifest names.
pub(crate) async fn publish(
    connection: &mut PgConnection,
    publication: &Publication<'_>,
    new: &NewAdapterVersion,
) -> Result<(AdapterVersionId, i32), StoreError> {
    let adapter = sqlx::query!(
        "insert into adapters (id, organization_id, name, last_number) values ($1, $2, $3, 1)
         on conflict (organization_id, name) do update set last_number = adapters.last_number + 1
         returning id, last_number",
        AdapterId::new().uuid(),
        publication.organization.uuid(),
        publication.adapter,
    )
    .fetch_one(&mut *connection)
    .await?;
    let version = AdapterVersionId::new();
    let parent: Option<AdapterVersionId> = match new.manifest.get(PARENT_FIELD) {
        None => None,
        Some(parent) => stored_json("manifest.parent_version", parent.clone())?,
    };
    let bytes: u64 = new.files.iter().map(|file| file.bytes).sum();
    sqlx::query!(
        "insert into adapter_versions (id, organization_id, adapter_id, number, job_id, base_model_id, digest, manifest,
                                       files, bytes, metrics, checkpoint_step, parent_version_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        version.uuid(),
        publication.organization.uuid(),
        adapter.id,
        adapter.last_number,
        publication.job.map(JobId::uuid),
        publication.base_model,
        new.digest.as_str(),
        new.manifest,
        to_json(&new.files),
        i64::try_from(bytes).unwrap_or(i64::MAX),
        new.metrics,
        publication.checkpoint_step,
        parent.map(AdapterVersionId::uuid),
    )
    .execute(connection)
    .await?;
    Ok((version, adapter.last_number))
}
