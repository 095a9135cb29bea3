//! Secrets of an organization for programs. Only their sha256 is here.

use chrono::{DateTime, Utc};
use tunesmith_types::{
    ids::{ApiKeyId, OrganizationId, UserId},
    list::Page,
    principal::{Principal, Role},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    accounts::role,
    paging::{Rows, fetch_limit},
};

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Id.
    pub id: ApiKeyId,
    /// As its maker called it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// First characters of the secret.
    pub display_prefix: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was ended by somebody.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Last use, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// 1 to 120 characters.
    pub name: &'a str,
    /// What it may do.
    pub role: Role,
    /// Who makes it; none for the key that `tunesmith up` makes.
    pub created_by: Option<UserId>,
    /// sha256 of the secret.
    pub secret_sha256: [u8; 32],
    /// First characters of the secret.
    pub display_prefix: &'a str,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

struct ApiKeyRow {
    id: Uuid,
    name: String,
    role: String,
    created_by: Option<Uuid>,
    display_prefix: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: ApiKeyId::from_uuid(row.id),
            name: row.name,
            role: role(row.role)?,
            created_by: row.created_by.map(UserId::from_uuid),
            display_prefix: row.display_prefix,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        })
    }
}

/// Stores a key.
///
/// # Errors
/// Database errors only.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewApiKey<'_>,
) -> Result<ApiKey, StoreError> {
    let row = sqlx::query_as!(
        ApiKeyRow,
        "insert into api_keys (id, organization_id, name, role, created_by, secret_sha256, display_prefix, expires_at)
         values ($1, $2, $3, $4::text::member_role, $5, $6, $7, $8)
         returning id, name, role::text as \"role!\", created_by, display_prefix, created_at, expires_at, revoked_at,
                   last_used_at",
        ApiKeyId::new().uuid(),
        organization.uuid(),
        new.name,
        new.role.as_str(),
        new.created_by.map(UserId::uuid),
        &new.secret_sha256,
        new.display_prefix,
        new.expires_at,
    )
    .fetch_one(store.pool())
    .await?;
    row.try_into()
}

/// The organization's keys, revoked ones too, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    page: &Page<ApiKeyId>,
) -> Result<Rows<ApiKey>, StoreError> {
    let rows = sqlx::query_as!(
        ApiKeyRow,
        "select id, name, role::text as \"role!\", created_by, display_prefix, created_at, expires_at, revoked_at,
                last_used_at
         from api_keys
         where organization_id = $1
           and ($2::uuid is null
                or (created_at, id) < (select created_at, id from api_keys where organization_id = $1 and id = $2))
         order by created_at desc, id desc limit $3",
        organization.uuid(),
        page.after.map(ApiKeyId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let keys = rows.into_iter().map(ApiKey::try_from).collect::<Result<_, _>>()?;
    Ok(Rows::cut(keys, page))
}

/// Ends a key at once. Ending it again changes nothing.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn revoke(
    store: &Store,
    organization: OrganizationId,
    key: ApiKeyId,
) -> Result<ApiKey, StoreError> {
    let row = sqlx::query_as!(
        ApiKeyRow,
        "update api_keys set revoked_at = coalesce(revoked_at, clock_timestamp())
         where organization_id = $1 and id = $2
         returning id, name, role::text as \"role!\", created_by, display_prefix, created_at, expires_at, revoked_at,
                   last_used_at",
        organization.uuid(),
        key.uuid(),
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("API key"))?.try_into()
}

/// Whom the secret with this sha256 stands for; `None` where there is no such key, or it has ended.
/// Notes the use, at most once a minute.
///
/// # Errors
/// Database errors only.
pub async fn authenticate(store: &Store, secret_sha256: &[u8; 32]) -> Result<Option<Principal>, StoreError> {
    let Some(row) = sqlx::query!(
        "select id, organization_id, created_by, role::text as \"role!\",
                (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute') as \"stale!\"
         from api_keys
         where secret_sha256 = $1 and revoked_at is null
           and (expires_at is null or expires_at > clock_timestamp())",
        secret_sha256,
    )
    .fetch_optional(store.pool())
    .await?
    else {
        return Ok(None);
    };
    if row.stale {
        // Requests that come at the same moment do not queue for the row: one of them notes it.
        sqlx::query!(
            "update api_keys set last_used_at = clock_timestamp()
             where id = (select id from api_keys
                         where id = $1
                           and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute')
                         for update skip locked)",
            row.id
        )
        .execute(store.pool())
        .await?;
    }
    Ok(Some(Principal {
        organization_id: OrganizationId::from_uuid(row.organization_id),
        user_id: row.created_by.map(UserId::from_uuid),
        api_key_id: Some(ApiKeyId::from_uuid(row.id)),
        role: role(row.role)?,
    }))
}
