//! Aliases of adapter versions. A move is a compare-and-set, and every move is kept in its [history](crate::alias_history).
//!
//! The row of the adapter is locked for a move, so the moves of one adapter follow one another. Whoever locks more
//! locks in this order: adapter, version, alias, deployment.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, OrganizationId, UserId},
    names::{ResourceName, Sha256Digest},
    version_reference::AliasName,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    alias_history::{self, Change},
    error::stored,
    revisions, tombstones,
};

/// A name that points to one version of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Of which adapter.
    pub adapter_id: AdapterId,
    /// Its name.
    pub adapter: ResourceName,
    /// Unique in the adapter.
    pub name: AliasName,
    /// Where it points to.
    pub version_id: AdapterVersionId,
    /// Number of that version.
    pub version: i32,
    /// Digest of that version.
    pub digest: Sha256Digest,
    /// Only admins and owners move, delete or unprotect it.
    pub protected: bool,
    /// Who moved it last.
    pub moved_by: Option<UserId>,
    /// When.
    pub moved_at: DateTime<Utc>,
}

struct AliasRow {
    adapter_id: Uuid,
    adapter: String,
    name: String,
    adapter_version_id: Uuid,
    version: i32,
    digest: String,
    protected: bool,
    moved_by: Option<Uuid>,
    moved_at: DateTime<Utc>,
}

impl TryFrom<AliasRow> for Alias {
    type Error = StoreError;

    fn try_from(row: AliasRow) -> Result<Self, StoreError> {
        Ok(Self {
            adapter_id: AdapterId::from_uuid(row.adapter_id),
            adapter: stored("adapters.name", &row.adapter)?,
            name: stored("adapter_aliases.name", &row.name)?,
            version_id: AdapterVersionId::from_uuid(row.adapter_version_id),
            version: row.version,
            digest: stored("adapter_versions.digest", &row.digest)?,
            protected: row.protected,
            moved_by: row.moved_by.map(UserId::from_uuid),
            moved_at: row.moved_at,
        })
    }
}

/// `select` of whole aliases; the rest of the statement, then its arguments.
macro_rules! select_aliases {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            AliasRow,
            "select l.adapter_id, a.name as adapter, l.name, l.adapter_version_id, v.number as version, v.digest,
                    l.protected, l.moved_by, l.moved_at
             from adapter_aliases l
             join adapters a on a.id = l.adapter_id
             join adapter_versions v on v.id = l.adapter_version_id " + $rest,
            $($argument),*
        )
    };
}

/// What the caller of a move saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Move whatever is there.
    Anything,
    /// The alias must not exist yet.
    Absent,
    /// The alias must point to the version with this number.
    Version(i32),
}

/// Who changes an alias, what he saw and why.
#[derive(Debug, Clone, Copy)]
pub struct Mover<'a> {
    /// What he saw.
    pub expected: Expected,
    /// Who he is.
    pub user: Option<UserId>,
    /// Whether his role lets him change protected aliases.
    pub may_change_protected: bool,
    /// Why he does it.
    pub reason: Option<&'a str>,
}

/// Where an alias shall point to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Number of a version of the adapter that is not deleted.
    pub version: i32,
    /// Whether it shall be protected; none leaves that as it is.
    pub protected: Option<bool>,
}

/// Points an alias to a version, as one compare-and-set. Where the alias is `champion`, `previous` follows.
/// A move that changes nothing leaves no trace.
///
/// # Errors
/// [`StoreError::NotFound`] for the adapter or the version; [`StoreError::Conflict`] `alias_conflict` where the alias
/// is elsewhere than expected, or `alias_follows`; [`StoreError::Forbidden`] `alias_protected`.
pub async fn move_alias(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
    alias: &AliasName,
    target: &Target,
    mover: &Mover<'_>,
) -> Result<Alias, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let adapter_id = lock_adapter(&mut transaction, organization, adapter).await?;
    let present = admit(&mut transaction, organization, adapter_id, alias, mover).await?;
    let protected = target
        .protected
        .unwrap_or(present.as_ref().is_some_and(|alias| alias.protected));
    require_right_to_protect(alias, protected, mover)?;
    let version = version_of(&mut transaction, organization, adapter_id, target.version).await?;
    let from = present.as_ref().map(|alias| alias.version_id);
    let change = Change {
        organization,
        adapter_id,
        alias,
        from,
        protected,
        user: mover.user,
        reason: mover.reason,
    };
    if present.is_none_or(|present| present.version_id != version || present.protected != protected) {
        point(&mut transaction, &change, version).await?;
    }
    if let Some(replaced) = from.filter(|replaced| alias.is_champion() && *replaced != version) {
        let previous = AliasName::previous();
        let present = find_in(&mut transaction, organization, adapter_id, &previous).await?;
        let following = Change {
            alias: &previous,
            from: present.as_ref().map(|alias| alias.version_id),
            protected: false,
            reason: Some("follows champion"),
            ..change
        };
        if following.from != Some(replaced) {
            point(&mut transaction, &following, replaced).await?;
        }
    }
    transaction.commit().await?;
    store.deployments_changed();
    find(store, organization, adapter, alias).await
}

/// Takes an alias away; its history stays.
///
/// # Errors
/// As for [`move_alias`].
pub async fn delete(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
    alias: &AliasName,
    mover: &Mover<'_>,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let adapter_id = lock_adapter(&mut transaction, organization, adapter).await?;
    let present = admit(&mut transaction, organization, adapter_id, alias, mover)
        .await?
        .ok_or(StoreError::NotFound("alias"))?;
    sqlx::query!(
        "delete from adapter_aliases where organization_id = $1 and adapter_id = $2 and name = $3",
        organization.uuid(),
        adapter_id.uuid(),
        alias.as_str(),
    )
    .execute(&mut *transaction)
    .await?;
    let change = Change {
        organization,
        adapter_id,
        alias,
        from: Some(present.version_id),
        protected: false,
        user: mover.user,
        reason: mover.reason,
    };
    alias_history::record(&mut transaction, &change, None).await?;
    transaction.commit().await?;
    Ok(())
}

/// Points the alias to the version, and does in the same transaction all that follows from it.
async fn point(
    connection: &mut PgConnection,
    change: &Change<'_>,
    version: AdapterVersionId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into adapter_aliases (organization_id, adapter_id, name, adapter_version_id, protected, moved_by)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (adapter_id, name) do update
         set adapter_version_id = excluded.adapter_version_id, protected = excluded.protected,
             moved_by = excluded.moved_by, moved_at = clock_timestamp()",
        change.organization.uuid(),
        change.adapter_id.uuid(),
        change.alias.as_str(),
        version.uuid(),
        change.protected,
        change.user.map(UserId::uuid),
    )
    .execute(&mut *connection)
    .await?;
    alias_history::record(connection, change, Some(version)).await?;
    let Change {
        organization,
        adapter_id,
        alias,
        user,
        ..
    } = *change;
    revisions::follow_alias(connection, organization, adapter_id, alias, version, user).await?;
    Ok(())
}

/// Locks the adapter, so that its aliases stand still and none of its versions is deleted.
pub(crate) async fn lock_adapter(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: &str,
) -> Result<AdapterId, StoreError> {
    let id = sqlx::query_scalar!(
        "select id from adapters where organization_id = $1 and name = $2 for no key update",
        organization.uuid(),
        adapter,
    )
    .fetch_optional(connection)
    .await?;
    id.map(AdapterId::from_uuid)
        .ok_or(StoreError::NotFound("adapter"))
}

/// The alias as it is, where this mover may change it and has seen it so.
async fn admit(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: AdapterId,
    alias: &AliasName,
    mover: &Mover<'_>,
) -> Result<Option<Alias>, StoreError> {
    if alias.is_previous() {
        let message =
            "The alias `previous` follows `champion` by itself; move `champion`, or use a name of your own.";
        return Err(StoreError::conflict("alias_follows", Some("alias"), message));
    }
    let present = find_in(connection, organization, adapter, alias).await?;
    if let Some(present) = &present {
        require_right_to_protect(alias, present.protected, mover)?;
    }
    let version = present.as_ref().map(|alias| alias.version);
    let stale = match mover.expected {
        Expected::Anything => false,
        Expected::Absent => version.is_some(),
        Expected::Version(expected) => version != Some(expected),
    };
    if !stale {
        return Ok(present);
    }
    let message = version.map_or_else(
        || format!("The alias `{alias}` does not exist by now; read the aliases again and decide anew."),
        |version| {
            format!("The alias `{alias}` points to version {version} by now; read it again and decide anew.")
        },
    );
    Err(StoreError::conflict(
        "alias_conflict",
        Some("expected_version"),
        message,
    ))
}

fn require_right_to_protect(alias: &AliasName, protected: bool, mover: &Mover<'_>) -> Result<(), StoreError> {
    if !protected || mover.may_change_protected {
        return Ok(());
    }
    let message = format!(
        "The alias `{alias}` is protected, or would be: only admins and owners move, delete, protect or unprotect it."
    );
    Err(StoreError::forbidden("alias_protected", Some("alias"), message))
}

/// The version with this number, which is not deleted before the caller's transaction ends.
async fn version_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: AdapterId,
    number: i32,
) -> Result<AdapterVersionId, StoreError> {
    let id = sqlx::query_scalar!(
        "select id from adapter_versions where organization_id = $1 and adapter_id = $2 and number = $3",
        organization.uuid(),
        adapter.uuid(),
        number,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("adapter version"))?;
    tombstones::keep(connection, organization, &[id]).await?;
    Ok(AdapterVersionId::from_uuid(id))
}

/// An alias in the caller's transaction. Lock the adapter before, where it must stay as it is.
pub(crate) async fn find_in(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: AdapterId,
    alias: &AliasName,
) -> Result<Option<Alias>, StoreError> {
    let row = select_aliases!(
        "where l.organization_id = $1 and l.adapter_id = $2 and l.name = $3",
        organization.uuid(),
        adapter.uuid(),
        alias.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    row.map(Alias::try_from).transpose()
}

/// An alias by the adapter's name and its own.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
    alias: &AliasName,
) -> Result<Alias, StoreError> {
    let row = select_aliases!(
        "where l.organization_id = $1 and a.name = $2 and l.name = $3",
        organization.uuid(),
        adapter,
        alias.as_str(),
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("alias"))?.try_into()
}

/// The aliases of an adapter by name, all of them; none where there is no such adapter.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
) -> Result<Vec<Alias>, StoreError> {
    let rows = select_aliases!(
        "where l.organization_id = $1 and a.name = $2 order by l.name",
        organization.uuid(),
        adapter,
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter().map(Alias::try_from).collect()
}

/// The aliases that point to one of these versions.
pub(crate) async fn of_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    versions: &[Uuid],
) -> Result<Vec<Alias>, StoreError> {
    let rows = select_aliases!(
        "where l.organization_id = $1 and l.adapter_version_id = any($2) order by a.name, l.name",
        organization.uuid(),
        versions,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Alias::try_from).collect()
}
