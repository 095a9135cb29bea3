//! Exports of adapter versions, and the small leased queue of those that are still to be made.
//!
//! As in [`queue`](crate::queue) a claim draws a fencing token, every later write names it in the statement that writes,
//! and only the database's clock decides. An export whose worker went silent is claimed by the next one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tunesmith_types::{
    ids::{AdapterVersionId, ExportId, OrganizationId},
    states::{ExportDtype, ExportFormat, ExportState},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    adapters::{self, AdapterVersion},
    base_models::{self, BaseModel},
    error::{stored, stored_json, stored_json_option},
    files::{StoredFile, to_json},
    jobs::JobError,
    refresh_tokens::interval,
};

/// An adapter version in another form, made or to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// Id.
    pub id: ExportId,
    /// Of which version.
    pub version_id: AdapterVersionId,
    /// In which form.
    pub format: ExportFormat,
    /// In which number format.
    pub dtype: ExportDtype,
    /// How far it is.
    pub state: ExportState,
    /// Its files once it has succeeded.
    pub files: Vec<StoredFile>,
    /// How it was verified.
    pub verification: Option<Value>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it succeeded or failed.
    pub ended_at: Option<DateTime<Utc>>,
}

struct ExportRow {
    id: Uuid,
    version_id: Uuid,
    format: String,
    dtype: String,
    state: String,
    files: Value,
    verification: Option<Value>,
    error: Option<Value>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<ExportRow> for Export {
    type Error = StoreError;

    fn try_from(row: ExportRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: ExportId::from_uuid(row.id),
            version_id: AdapterVersionId::from_uuid(row.version_id),
            format: stored("adapter_exports.format", &row.format)?,
            dtype: stored("adapter_exports.dtype", &row.dtype)?,
            state: stored("adapter_exports.state", &row.state)?,
            files: stored_json("adapter_exports.files", row.files)?,
            verification: row.verification,
            error: stored_json_option("adapter_exports.error", row.error)?,
            created_at: row.created_at,
            ended_at: row.ended_at,
        })
    }
}

/// `select` of whole exports; the rest of the statement, then its arguments.
macro_rules! select_exports {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            ExportRow,
            "select id, version_id, format, dtype, state, files, verification, error, created_at, ended_at
             from adapter_exports " + $rest,
            $($argument),*
        )
    };
}

/// Asks for an export. There is one per version, form and number format: one that is there is returned as it is, and one
/// that has failed is tried again.
///
/// # Errors
/// Database errors only; the caller has found the version.
pub async fn request(
    store: &Store,
    organization: OrganizationId,
    version: AdapterVersionId,
    format: ExportFormat,
    dtype: ExportDtype,
) -> Result<Export, StoreError> {
    let mut transaction = store.pool().begin().await?;
    sqlx::query!(
        "insert into adapter_exports (id, organization_id, version_id, format, dtype) values ($1, $2, $3, $4, $5)
         on conflict (version_id, format, dtype) do update
         set state = 'queued', attempts = 0, run_at = clock_timestamp(), error = null, ended_at = null
         where adapter_exports.state = 'failed'",
        ExportId::new().uuid(),
        organization.uuid(),
        version.uuid(),
        format.as_str(),
        dtype.as_str(),
    )
    .execute(&mut *transaction)
    .await?;
    let row = select_exports!(
        "where organization_id = $1 and version_id = $2 and format = $3 and dtype = $4",
        organization.uuid(),
        version.uuid(),
        format.as_str(),
        dtype.as_str(),
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    row.try_into()
}

/// An export by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    export: ExportId,
) -> Result<Export, StoreError> {
    let row = select_exports!(
        "where organization_id = $1 and id = $2",
        organization.uuid(),
        export.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("export"))?.try_into()
}

/// The exports of a version, the oldest first; there are few.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    version: AdapterVersionId,
) -> Result<Vec<Export>, StoreError> {
    let rows = select_exports!(
        "where organization_id = $1 and version_id = $2 order by id",
        organization.uuid(),
        version.uuid()
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter().map(Export::try_from).collect()
}

/// Proof of holding an export. It is lost by not renewing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportToken {
    /// Which one.
    pub export_id: ExportId,
    /// Counts its leases.
    pub epoch: i64,
    /// Drawn at random with each claim.
    pub lease_id: Uuid,
}

/// An export in the hands of a worker, with all that it needs to make it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedExport {
    /// Proof of holding it.
    pub token: ExportToken,
    /// In which form.
    pub format: ExportFormat,
    /// In which number format.
    pub dtype: ExportDtype,
    /// Claims so far, this one among them.
    pub attempts: i32,
    /// What is exported.
    pub version: AdapterVersion,
    /// What it adapts.
    pub base_model: BaseModel,
}

/// Takes the export that has waited longest, for `ttl` from now; one whose lease ran out longer than `grace` ago is
/// waiting too. Two workers never get the same one. Serves the system itself.
///
/// # Errors
/// Database errors only.
pub async fn claim(
    store: &Store,
    ttl: Duration,
    grace: Duration,
    worker: &str,
) -> Result<Option<ClaimedExport>, StoreError> {
    let row = sqlx::query!(
        "update adapter_exports
         set state = 'running', epoch = epoch + 1, lease_id = gen_random_uuid(), worker = $1,
             lease_until = clock_timestamp() + $2::interval, attempts = attempts + 1
         where id = (
             select id from adapter_exports
             where (state = 'queued' and run_at <= clock_timestamp())
                or (state = 'running' and lease_until + $3::interval < clock_timestamp())
             order by run_at, id for update skip locked limit 1
         )
         returning id, organization_id, version_id, format, dtype, epoch, lease_id as \"lease_id!\", attempts",
        worker,
        interval(ttl),
        interval(grace),
    )
    .fetch_optional(store.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let organization = OrganizationId::from_uuid(row.organization_id);
    let version = adapters::version(store, organization, AdapterVersionId::from_uuid(row.version_id)).await?;
    Ok(Some(ClaimedExport {
        token: ExportToken {
            export_id: ExportId::from_uuid(row.id),
            epoch: row.epoch,
            lease_id: row.lease_id,
        },
        format: stored("adapter_exports.format", &row.format)?,
        dtype: stored("adapter_exports.dtype", &row.dtype)?,
        attempts: row.attempts,
        base_model: base_models::get_any(store, version.base_model_id).await?,
        version,
    }))
}

/// Keeps the export for another `ttl` from now.
///
/// # Errors
/// [`StoreError::LeaseLost`]: it came too late, or the export is another worker's.
pub async fn renew(store: &Store, token: &ExportToken, ttl: Duration) -> Result<(), StoreError> {
    let renewed = sqlx::query!(
        "update adapter_exports set lease_until = clock_timestamp() + $4::interval
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()",
        token.export_id.uuid(),
        token.epoch,
        token.lease_id,
        interval(ttl),
    )
    .execute(store.pool())
    .await?;
    held(renewed.rows_affected())
}

/// Makes the files count. What this worker has already completed stays so.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn complete(
    store: &Store,
    token: &ExportToken,
    files: &[StoredFile],
    verification: &Value,
) -> Result<(), StoreError> {
    let completed = sqlx::query!(
        "update adapter_exports
         set state = 'succeeded', files = $4, verification = $5, ended_at = coalesce(ended_at, clock_timestamp())
         where id = $1 and epoch = $2 and lease_id = $3
           and ((state = 'running' and lease_until > clock_timestamp()) or (state = 'succeeded' and files = $4))",
        token.export_id.uuid(),
        token.epoch,
        token.lease_id,
        to_json(files),
        verification,
    )
    .execute(store.pool())
    .await?;
    held(completed.rows_affected())
}

/// Ends the export with an error, or gives it back to be tried again after `retry_after`.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn fail(
    store: &Store,
    token: &ExportToken,
    error: &JobError,
    retry_after: Option<Duration>,
) -> Result<(), StoreError> {
    let failed = sqlx::query!(
        "update adapter_exports
         set state = case when $5::interval is null then 'failed' else 'queued' end, error = $4,
             run_at = clock_timestamp() + coalesce($5::interval, '0'),
             ended_at = case when $5::interval is null then clock_timestamp() end
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()",
        token.export_id.uuid(),
        token.epoch,
        token.lease_id,
        to_json(error),
        retry_after.map(interval),
    )
    .execute(store.pool())
    .await?;
    held(failed.rows_affected())
}

/// Gives the export back untouched, as a worker does that goes away; the attempt does not count.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn release(store: &Store, token: &ExportToken) -> Result<(), StoreError> {
    let released = sqlx::query!(
        "update adapter_exports set state = 'queued', run_at = clock_timestamp(), attempts = attempts - 1
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()",
        token.export_id.uuid(),
        token.epoch,
        token.lease_id,
    )
    .execute(store.pool())
    .await?;
    held(released.rows_affected())
}

fn held(rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost)
    }
}
