//! Everything that Tunesmith knows lies in Postgres, and this crate is the only one that speaks SQL.
//!
//! One module per aggregate, free functions over a [`Store`]. Every function about a tenant's rows takes the
//! [`OrganizationId`](tunesmith_types::ids::OrganizationId) and finds nothing of another's; every write of a run takes
//! the [`LeaseToken`](queue::LeaseToken) and is refused once the lease is lost. Functions without either serve the
//! system itself (reconciler, reaper) and say so.

pub mod accounts;
pub mod adapters;
pub mod alias_history;
pub mod aliases;
pub mod api_keys;
pub mod base_models;
pub mod checkpoints;
pub mod datasets;
pub mod deployments;
pub mod embedded;
pub mod error;
pub mod events;
pub mod exports;
pub mod feedback;
pub mod figures;
pub mod files;
pub mod idempotency;
pub mod imports;
pub mod jobs;
pub mod lineage;
pub mod manifest;
pub mod metrics;
pub mod notifications;
pub mod paging;
mod publication;
pub mod queue;
pub mod refresh_tokens;
pub mod replicas;
pub mod requests;
pub mod revisions;
pub mod rollouts;
pub mod routing;
pub mod runs;
mod schema;
pub mod shadows;
pub mod tombstones;

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tokio::sync::watch;

pub use crate::error::StoreError;

/// A connected database. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    deployment_changes: Arc<watch::Sender<u64>>,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `postgres://user:password@host:port/database`
    pub url: String,
    /// Most connections of this process.
    pub max_connections: u32,
    /// How long a query waits for a connection before it fails as unavailable.
    pub acquire_timeout: Duration,
}

impl StoreSettings {
    /// Sixteen connections, five seconds.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
        }
    }
}

/// A connection that was idle for longer is asked for a sign of life before it is used.
const FRESH: Duration = Duration::from_secs(1);

/// A dead connection is replaced. One that was in use a moment ago is not asked: under load that would be a round trip
/// for each statement.
async fn is_alive(connection: &mut PgConnection, idle_for: Duration) -> Result<bool, sqlx::Error> {
    if idle_for > FRESH {
        connection.ping().await?;
    }
    Ok(true)
}

impl Store {
    /// Connects; fails where the database cannot be reached. The schema is not looked at: see [`Self::migrate`] and
    /// [`Self::check_schema`].
    ///
    /// # Errors
    /// The URL is wrong, or the database does not answer.
    pub async fn connect(settings: &StoreSettings) -> Result<Self, StoreError> {
        let options: PgConnectOptions = settings.url.parse().map_err(StoreError::Url)?;
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, known| Box::pin(is_alive(connection, known.idle_for)))
            .connect_with(options.application_name("tunesmith"))
            .await?;
        let deployment_changes = Arc::new(watch::Sender::new(0));
        Ok(Self {
            pool,
            deployment_changes,
        })
    }

    /// Applies the migrations that are missing. Processes that start together wait for each other.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`] where a newer Tunesmith has been here; [`StoreError::Migration`] where one fails.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        schema::migrate(&self.pool).await
    }

    /// Checks that the schema is exactly the one that this build was made for.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`] or [`StoreError::SchemaTooOld`].
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        schema::check(&self.pool).await
    }

    /// Names the schema of this build, for databases that are shared between builds (the template of the tests).
    #[must_use]
    pub fn schema_fingerprint() -> String {
        schema::fingerprint()
    }

    /// Asks the database for an answer, for readiness probes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!("select 1 as \"one!\"")
            .fetch_one(&self.pool)
            .await?;
        Ok(())
    }

    /// Closes all connections and waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Counts the changes of deployments that this process knows of: those that it committed itself, at once, and
    /// those of others as [`Self::deployments_changed`] says. Whoever keeps what it read of deployments asks here
    /// whether that still holds.
    #[must_use]
    pub fn deployment_changes(&self) -> watch::Receiver<u64> {
        self.deployment_changes.subscribe()
    }

    /// A deployment has changed, or may have.
    pub fn deployments_changed(&self) {
        self.deployment_changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}
