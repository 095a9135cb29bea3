//! Refresh tokens: each is used once and replaced; using a spent one ends its whole family.

use std::time::Duration;

use sqlx::{PgConnection, postgres::types::PgInterval};
use tunesmith_types::ids::{OrganizationId, UserId};
use uuid::Uuid;

use crate::{Store, StoreError};

/// What came of presenting a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Spent; the new one is stored.
    Rotated {
        /// Whose it is.
        user_id: UserId,
        /// For which organization.
        organization_id: OrganizationId,
    },
    /// It was spent before: somebody else has a copy. Its family is revoked.
    Reused,
    /// Unknown, expired or revoked.
    Invalid,
}

/// A duration as the database adds it to its clock.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4),
    }
}

/// Stores the first token of a login, by its sha256.
///
/// # Errors
/// Database errors only; the user must be a member of the organization.
pub async fn issue(
    store: &Store,
    organization: OrganizationId,
    user: UserId,
    token_sha256: &[u8; 32],
    lifetime: Duration,
) -> Result<(), StoreError> {
    let mut connection = store.pool().acquire().await?;
    insert(
        &mut connection,
        Uuid::now_v7(),
        organization,
        user,
        token_sha256,
        lifetime,
    )
    .await
}

async fn insert(
    connection: &mut PgConnection,
    family: Uuid,
    organization: OrganizationId,
    user: UserId,
    token_sha256: &[u8; 32],
    lifetime: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into refresh_tokens (token_sha256, family_id, user_id, organization_id, expires_at)
         values ($1, $2, $3, $4, clock_timestamp() + $5::interval)",
        token_sha256,
        family,
        user.uuid(),
        organization.uuid(),
        interval(lifetime),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Spends the presented token and stores its successor.
///
/// # Errors
/// Database errors only; see [`Rotation`] for the rest.
pub async fn rotate(
    store: &Store,
    presented_sha256: &[u8; 32],
    next_sha256: &[u8; 32],
    lifetime: Duration,
) -> Result<Rotation, StoreError> {
    let mut transaction = store.pool().begin().await?;
    // The row lock lets exactly one of two simultaneous users of a token spend it.
    let Some(token) = sqlx::query!(
        "select family_id, user_id, organization_id, used_at is not null as \"used!\",
                (revoked_at is not null or expires_at <= clock_timestamp()) as \"ended!\"
         from refresh_tokens where token_sha256 = $1 for update",
        presented_sha256,
    )
    .fetch_optional(&mut *transaction)
    .await?
    else {
        return Ok(Rotation::Invalid);
    };
    if token.used {
        end_family(&mut transaction, token.family_id).await?;
        transaction.commit().await?;
        return Ok(Rotation::Reused);
    }
    if token.ended {
        return Ok(Rotation::Invalid);
    }
    sqlx::query!(
        "update refresh_tokens set used_at = clock_timestamp() where token_sha256 = $1",
        presented_sha256
    )
    .execute(&mut *transaction)
    .await?;
    let organization_id = OrganizationId::from_uuid(token.organization_id);
    let user_id = UserId::from_uuid(token.user_id);
    insert(
        &mut transaction,
        token.family_id,
        organization_id,
        user_id,
        next_sha256,
        lifetime,
    )
    .await?;
    transaction.commit().await?;
    Ok(Rotation::Rotated {
        user_id,
        organization_id,
    })
}

/// Logs out: ends the family of the presented token, if there is one.
///
/// # Errors
/// Database errors only.
pub async fn revoke(store: &Store, presented_sha256: &[u8; 32]) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let family = sqlx::query_scalar!(
        "select family_id from refresh_tokens where token_sha256 = $1",
        presented_sha256
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(family) = family {
        end_family(&mut transaction, family).await?;
        transaction.commit().await?;
    }
    Ok(())
}

async fn end_family(connection: &mut PgConnection, family: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "update refresh_tokens set revoked_at = clock_timestamp() where family_id = $1 and revoked_at is null",
        family,
    )
    .execute(connection)
    .await?;
    Ok(())
}
