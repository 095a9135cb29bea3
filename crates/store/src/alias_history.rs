//! What became of every alias: one row a change, which stays for ever.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, AliasMoveId, OrganizationId, UserId},
    list::Page,
    version_reference::AliasName,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::stored,
    paging::{Rows, fetch_limit},
};

/// One change of an alias; it never changes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasMove {
    /// Id.
    pub id: AliasMoveId,
    /// Which alias.
    pub alias: AliasName,
    /// Number of the version before; none where the alias was new.
    pub from: Option<i32>,
    /// Number of the version after; none where the alias was deleted.
    pub to: Option<i32>,
    /// Whether it was protected afterwards.
    pub protected: bool,
    /// Who moved it.
    pub moved_by: Option<UserId>,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub moved_at: DateTime<Utc>,
}

struct MoveRow {
    id: Uuid,
    alias: String,
    from: Option<i32>,
    to: Option<i32>,
    protected: bool,
    moved_by: Option<Uuid>,
    reason: Option<String>,
    moved_at: DateTime<Utc>,
}

impl TryFrom<MoveRow> for AliasMove {
    type Error = StoreError;

    fn try_from(row: MoveRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: AliasMoveId::from_uuid(row.id),
            alias: stored("adapter_alias_moves.alias", &row.alias)?,
            from: row.from,
            to: row.to,
            protected: row.protected,
            moved_by: row.moved_by.map(UserId::from_uuid),
            reason: row.reason,
            moved_at: row.moved_at,
        })
    }
}

/// A change of an alias that has been found right.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) organization: OrganizationId,
    pub(crate) adapter_id: AdapterId,
    pub(crate) alias: &'a AliasName,
    pub(crate) from: Option<AdapterVersionId>,
    pub(crate) protected: bool,
    pub(crate) user: Option<UserId>,
    pub(crate) reason: Option<&'a str>,
}

/// Adds a row to the history.
pub(crate) async fn record(
    connection: &mut PgConnection,
    change: &Change<'_>,
    to: Option<AdapterVersionId>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into adapter_alias_moves (id, organization_id, adapter_id, alias, from_version_id, to_version_id,
                                          protected, moved_by, reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        AliasMoveId::new().uuid(),
        change.organization.uuid(),
        change.adapter_id.uuid(),
        change.alias.as_str(),
        change.from.map(AdapterVersionId::uuid),
        to.map(AdapterVersionId::uuid),
        change.protected,
        change.user.map(UserId::uuid),
        change.reason,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What became of one alias of an adapter, or of all of them, newest first.
///
/// # Errors
/// Database errors only.
pub async fn history(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
    alias: Option<&AliasName>,
    page: &Page<AliasMoveId>,
) -> Result<Rows<AliasMove>, StoreError> {
    let rows = sqlx::query_as!(
        MoveRow,
        "select m.id, m.alias, f.number as \"from?\", t.number as \"to?\", m.protected, m.moved_by, m.reason, m.moved_at
         from adapter_alias_moves m
         join adapters a on a.id = m.adapter_id
         left join adapter_versions f on f.id = m.from_version_id
         left join adapter_versions t on t.id = m.to_version_id
         where m.organization_id = $1 and a.name = $2 and ($3::text is null or m.alias = $3)
           and ($4::uuid is null
                or (m.moved_at, m.id) < (select cursor.moved_at, cursor.id from adapter_alias_moves as cursor
                                         where cursor.organization_id = $1 and cursor.id = $4))
         order by m.moved_at desc, m.id desc limit $5",
        organization.uuid(),
        adapter,
        alias.map(AliasName::as_str),
        page.after.map(AliasMoveId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let moves = rows
        .into_iter()
        .map(AliasMove::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(moves, page))
}
