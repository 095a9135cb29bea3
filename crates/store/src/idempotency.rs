//! Requests that carry an `Idempotency-Key` have their effect once: their answer is kept and given again.

use std::time::Duration;

use tunesmith_types::ids::OrganizationId;

use crate::{Store, StoreError, refresh_tokens::interval};

/// After this time a request that never ended (its process died) may be tried again under the same key.
const ABANDONED_AFTER: Duration = Duration::from_secs(120);

/// A request that carries a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyedRequest<'a> {
    /// The header's value, 1 to 255 characters.
    pub key: &'a str,
    /// Method and path.
    pub operation: &'a str,
    /// sha256 of the body.
    pub request_sha256: &'a [u8; 32],
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The first of its key: do it, then [`finish`] or [`abandon`].
    First,
    /// Its twin is being answered: 409.
    InFlight,
    /// The key belongs to another request: 422.
    Mismatch,
    /// It was answered before: answer the same.
    Answered {
        /// HTTP status.
        status: u16,
        /// Body.
        body: Vec<u8>,
    },
}

/// Claims the key for this request, or says what its first use came to.
///
/// # Errors
/// Database errors only.
pub async fn begin(
    store: &Store,
    organization: OrganizationId,
    request: &KeyedRequest<'_>,
) -> Result<Admission, StoreError> {
    let claimed = sqlx::query!(
        "insert into idempotency_keys as known (organization_id, key, operation, request_sha256) values ($1, $2, $3, $4)
         on conflict (organization_id, key) do update
         set created_at = clock_timestamp()
         where known.status is null and known.created_at < clock_timestamp() - $5::interval
           and known.operation = excluded.operation and known.request_sha256 = excluded.request_sha256",
        organization.uuid(),
        request.key,
        request.operation,
        request.request_sha256,
        interval(ABANDONED_AFTER),
    )
    .execute(store.pool())
    .await?;
    if claimed.rows_affected() > 0 {
        return Ok(Admission::First);
    }
    let known = sqlx::query!(
        "select operation = $3 and request_sha256 = $4 as \"same!\", status, body
         from idempotency_keys where organization_id = $1 and key = $2",
        organization.uuid(),
        request.key,
        request.operation,
        request.request_sha256,
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(match known {
        // Abandoned between the two statements; the caller may come again.
        None => Admission::InFlight,
        Some(row) if !row.same => Admission::Mismatch,
        Some(row) => match (row.status, row.body) {
            (Some(status), Some(body)) => Admission::Answered {
                status: u16::try_from(status).unwrap_or(500),
                body,
            },
            _ => Admission::InFlight,
        },
    })
}

/// Keeps the answer.
///
/// # Errors
/// Database errors only.
pub async fn finish(
    store: &Store,
    organization: OrganizationId,
    key: &str,
    status: u16,
    body: &[u8],
) -> Result<(), StoreError> {
    sqlx::query!(
        "update idempotency_keys set status = $3, body = $4
         where organization_id = $1 and key = $2 and status is null",
        organization.uuid(),
        key,
        i32::from(status),
        body,
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Frees the key of a request that had no effect (refused, or the database was away).
///
/// # Errors
/// Database errors only.
pub async fn abandon(store: &Store, organization: OrganizationId, key: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from idempotency_keys where organization_id = $1 and key = $2 and status is null",
        organization.uuid(),
        key,
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// For the system: forgets answers older than `age` (at least a day). Returns how many.
///
/// # Errors
/// Database errors only.
pub async fn forget(store: &Store, age: Duration) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from idempotency_keys where created_at < clock_timestamp() - $1::interval",
        interval(age),
    )
    .execute(store.pool())
    .await?;
    Ok(done.rows_affected())
}
