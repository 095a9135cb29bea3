//! What happened to a job, for people and programs.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{EventId, JobId, OrganizationId},
    list::Page,
    states::EventLevel,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::stored,
    paging::{Rows, fetch_limit},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Id.
    pub id: EventId,
    /// How much it matters.
    pub level: EventLevel,
    /// Stable, for programs.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// Numbers and ids.
    pub data: Value,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// Something to be noted.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// How much it matters.
    pub level: EventLevel,
    /// Stable, for programs.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// Numbers and ids.
    pub data: Value,
}

impl NewEvent {
    /// An event without data.
    #[must_use]
    pub fn new(level: EventLevel, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level,
            code: code.into(),
            message: message.into(),
            data: json!({}),
        }
    }

    /// The same with data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

struct EventRow {
    id: Uuid,
    level: String,
    code: String,
    message: String,
    data: Value,
    created_at: DateTime<Utc>,
}

impl TryFrom<EventRow> for Event {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: EventId::from_uuid(row.id),
            level: stored("job_events.level", &row.level)?,
            code: row.code,
            message: row.message,
            data: row.data,
            created_at: row.created_at,
        })
    }
}

/// Notes an event in the caller's transaction, which has locked the job's row: so the events of a job are in order.
pub(crate) async fn append(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    event: &NewEvent,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into job_events (id, organization_id, job_id, level, code, message, data)
         values ($1, $2, $3, $4::text::event_level, $5, $6, $7)",
        EventId::new().uuid(),
        organization.uuid(),
        job.uuid(),
        event.level.as_str(),
        event.code,
        event.message,
        event.data,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The events of a job, newest first; none where the job is another organization's.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    page: &Page<EventId>,
) -> Result<Rows<Event>, StoreError> {
    let rows = sqlx::query_as!(
        EventRow,
        "select id, level::text as \"level!\", code, message, data, created_at from job_events
         where organization_id = $1 and job_id = $2
           and ($3::uuid is null
                or (created_at, id) < (select cursor.created_at, cursor.id from job_events as cursor
                                       where cursor.job_id = $2 and cursor.id = $3))
         order by created_at desc, id desc limit $4",
        organization.uuid(),
        job.uuid(),
        page.after.map(EventId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let events = rows.into_iter().map(Event::try_from).collect::<Result<_, _>>()?;
    Ok(Rows::cut(events, page))
}

/// The events of a job after the one given, oldest first: what a live stream has not sent yet.
///
/// # Errors
/// Database errors only.
pub async fn since(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    after: Option<EventId>,
    limit: u16,
) -> Result<Vec<Event>, StoreError> {
    let rows = sqlx::query_as!(
        EventRow,
        "select id, level::text as \"level!\", code, message, data, created_at from job_events
         where organization_id = $1 and job_id = $2
           and ($3::uuid is null
                or (created_at, id) > (select cursor.created_at, cursor.id from job_events as cursor
                                       where cursor.job_id = $2 and cursor.id = $3))
         order by created_at, id limit $4",
        organization.uuid(),
        job.uuid(),
        after.map(EventId::uuid),
        i64::from(limit),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}
