//! Organizations, users and who belongs where.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, Transaction};
use tunesmith_types::{
    ids::{OrganizationId, UserId},
    principal::Role,
};
use uuid::Uuid;

use crate::{Store, StoreError, error::stored_json};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Id.
    pub id: OrganizationId,
    /// As its people call it; not unique.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A person. The password's hash is only in [`Credentials`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// In lower case, unique.
    pub email: String,
    /// When he signed up.
    pub created_at: DateTime<Utc>,
}

/// What a login is checked against.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who.
    pub user_id: UserId,
    /// argon2id string.
    pub password_hash: String,
}

/// A user's place in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Where.
    pub organization: Organization,
    /// As what.
    pub role: Role,
}

/// A person in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: User,
    /// As what.
    pub role: Role,
    /// Since when.
    pub joined_at: DateTime<Utc>,
}

/// What a sign-up gives.
#[derive(Debug, Clone)]
pub struct NewAccount<'a> {
    /// Email address; stored in lower case.
    pub email: &'a str,
    /// argon2id string, made by the caller.
    pub password_hash: &'a str,
    /// Name of the organization that is made with the account.
    pub organization_name: &'a str,
}

struct OrganizationRow {
    id: Uuid,
    name: String,
    created_at: DateTime<Utc>,
}

impl From<OrganizationRow> for Organization {
    fn from(row: OrganizationRow) -> Self {
        Self {
            id: OrganizationId::from_uuid(row.id),
            name: row.name,
            created_at: row.created_at,
        }
    }
}

struct UserRow {
    id: Uuid,
    email: String,
    created_at: DateTime<Utc>,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            id: UserId::from_uuid(row.id),
            email: row.email,
            created_at: row.created_at,
        }
    }
}

/// The stored word of a role.
pub(crate) fn role(text: String) -> Result<Role, StoreError> {
    stored_json("role", serde_json::Value::String(text))
}

/// Makes a user, his organization, and his place as its owner.
///
/// # Errors
/// [`StoreError::Conflict`] `email_taken`.
pub async fn sign_up(store: &Store, new: &NewAccount<'_>) -> Result<(User, Organization), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let user = insert_user(&mut transaction, new.email, new.password_hash).await?;
    let organization = insert_organization(&mut transaction, new.organization_name).await?;
    insert_membership(&mut transaction, organization.id, user.id, Role::Owner).await?;
    transaction.commit().await?;
    Ok((user, organization))
}

async fn insert_user(
    transaction: &mut Transaction<'_, Postgres>,
    email: &str,
    password_hash: &str,
) -> Result<User, StoreError> {
    let row = sqlx::query_as!(
        UserRow,
        "insert into users (id, email, password_hash) values ($1, lower($2), $3) returning id, email, created_at",
        UserId::new().uuid(),
        email,
        password_hash,
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(row.into())
}

async fn insert_organization(connection: &mut PgConnection, name: &str) -> Result<Organization, StoreError> {
    let row = sqlx::query_as!(
        OrganizationRow,
        "insert into organizations (id, name) values ($1, $2) returning id, name, created_at",
        OrganizationId::new().uuid(),
        name,
    )
    .fetch_one(connection)
    .await?;
    Ok(row.into())
}

async fn insert_membership(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
    role: Role,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into memberships (organization_id, user_id, role) values ($1, $2, $3::text::member_role)",
        organization.uuid(),
        user.uuid(),
        role.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What a login with this address is checked against. `None`: no such user (check a dummy hash all the same).
///
/// # Errors
/// Database errors only.
pub async fn credentials(store: &Store, email: &str) -> Result<Option<Credentials>, StoreError> {
    let row = sqlx::query!(
        "select id, password_hash from users where email = lower($1)",
        email
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(row.map(|row| Credentials {
        user_id: UserId::from_uuid(row.id),
        password_hash: row.password_hash,
    }))
}

/// A person, by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn user(store: &Store, user: UserId) -> Result<User, StoreError> {
    let row = sqlx::query_as!(
        UserRow,
        "select id, email, created_at from users where id = $1",
        user.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.map(User::from).ok_or(StoreError::NotFound("user"))
}

/// An organization, by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn organization(store: &Store, organization: OrganizationId) -> Result<Organization, StoreError> {
    let row = sqlx::query_as!(
        OrganizationRow,
        "select id, name, created_at from organizations where id = $1",
        organization.uuid(),
    )
    .fetch_optional(store.pool())
    .await?;
    row.map(Organization::from)
        .ok_or(StoreError::NotFound("organization"))
}

/// The role of a user in an organization.
///
/// # Errors
/// [`StoreError::NotFound`] where he is no member.
pub async fn member_role(
    store: &Store,
    organization: OrganizationId,
    user: UserId,
) -> Result<Role, StoreError> {
    let text = sqlx::query_scalar!(
        "select role::text as \"role!\" from memberships where organization_id = $1 and user_id = $2",
        organization.uuid(),
        user.uuid(),
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotFound("member"))?;
    role(text)
}

/// The organizations of a user, the oldest first: a login without a choice goes to the first.
///
/// # Errors
/// Database errors only.
pub async fn memberships(store: &Store, user: UserId) -> Result<Vec<Membership>, StoreError> {
    let rows = sqlx::query!(
        "select o.id, o.name, o.created_at, m.role::text as \"role!\"
         from memberships m join organizations o on o.id = m.organization_id
         where m.user_id = $1 order by m.created_at, o.id",
        user.uuid(),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let organization = OrganizationRow {
                id: row.id,
                name: row.name,
                created_at: row.created_at,
            };
            Ok(Membership {
                organization: organization.into(),
                role: role(row.role)?,
            })
        })
        .collect()
}

/// The people of an organization, the oldest members first.
///
/// # Errors
/// Database errors only.
pub async fn members(store: &Store, organization: OrganizationId) -> Result<Vec<Member>, StoreError> {
    let rows = sqlx::query!(
        "select u.id, u.email, u.created_at, m.role::text as \"role!\", m.created_at as joined_at
         from memberships m join users u on u.id = m.user_id
         where m.organization_id = $1 order by m.created_at, u.id",
        organization.uuid(),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let user = UserRow {
                id: row.id,
                email: row.email,
                created_at: row.created_at,
            };
            Ok(Member {
                user: user.into(),
                role: role(row.role)?,
                joined_at: row.joined_at,
            })
        })
        .collect()
}

/// The organization of a single-machine installation; made on the first call.
///
/// # Errors
/// Database errors only.
pub async fn default_organization(store: &Store) -> Result<Organization, StoreError> {
    sqlx::query!(
        "insert into organizations (id, name, is_default) values ($1, 'default', true)
         on conflict (is_default) where is_default do nothing",
        OrganizationId::new().uuid(),
    )
    .execute(store.pool())
    .await?;
    let row = sqlx::query_as!(
        OrganizationRow,
        "select id, name, created_at from organizations where is_default"
    )
    .fetch_one(store.pool())
    .await?;
    Ok(row.into())
}
