//! A database per test, on one PostgreSQL.
//!
//! `scripts/with-postgres.sh` starts the server for a whole test run and names it in `TUNESMITH_TEST_DATABASE_URL`.
//! Where that is not set (a single `cargo test`), the test process starts one of its own, which ends with its last
//! database. Every database is a copy of a migrated template, which takes some tens of milliseconds.

use std::sync::{Arc, Weak};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, migrate::MigrateDatabase};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tunesmith_store::{
    Store, StoreSettings,
    embedded::{EmbeddedPostgres, EmbeddedSettings},
};
use uuid::Uuid;

/// Names a server whose user may make databases.
pub const DATABASE_URL_VARIABLE: &str = "TUNESMITH_TEST_DATABASE_URL";

/// A migrated, empty database, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    store: Store,
    // Dropped last: the server outlives its databases.
    _server: Arc<Server>,
}

impl TestDatabase {
    /// A new database.
    ///
    /// # Panics
    /// Where there is no PostgreSQL; a test cannot go on without.
    pub async fn create() -> Self {
        let server = Server::get().await;
        let name = format!("test_{}", Uuid::now_v7().simple());
        server
            .execute(&format!("create database {name} template {}", server.template))
            .await;
        let url = with_database(&server.maintenance_url, &name);
        let mut settings = StoreSettings::new(&url);
        settings.max_connections = 8;
        let store = Store::connect(&settings).await.expect("the new database answers");
        Self {
            url,
            store,
            _server: server,
        }
    }

    /// `postgres://…` of the database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets the lease of a running job be over, as the database sees it.
    ///
    /// # Panics
    /// The database does not answer.
    pub async fn end_lease(&self, job: Uuid) {
        let statement = format!(
            "update jobs set lease_until = clock_timestamp() - interval '1 day' where id = '{job}' and state = 'running'"
        );
        let mut connection = PgConnection::connect(&self.url)
            .await
            .expect("the database answers");
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .expect("the lease ends");
    }

    /// A store on it, with eight connections at most.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let url = self.url.clone();
        // A drop cannot await, and the runtime of the test may be gone by now.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime
                .block_on(sqlx::Postgres::force_drop_database(&url))
                .map_err(std::io::Error::other)
        });
        // Whatever stays behind goes with the server.
        let _: std::thread::Result<Result<(), std::io::Error>> = dropping.join();
    }
}

/// The server of this test process.
#[derive(Debug)]
struct Server {
    maintenance_url: String,
    template: String,
    embedded: Option<(EmbeddedPostgres, TempDir)>,
}

static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());

impl Server {
    /// The server that is running, or a new one.
    async fn get() -> Arc<Self> {
        let mut running = SERVER.lock().await;
        if let Some(server) = running.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *running = Arc::downgrade(&server);
        server
    }

    async fn start() -> Self {
        let (maintenance_url, embedded) = match std::env::var(DATABASE_URL_VARIABLE) {
            Ok(url) => (url, None),
            Err(_) => {
                let folder = tempfile::tempdir().expect("a temporary folder can be made");
                let settings = EmbeddedSettings {
                    directory: folder.path().join("postgres"),
                    fsync: false,
                };
                let postgres = EmbeddedPostgres::start(&settings)
                    .await
                    .expect("an embedded postgres starts");
                (postgres.maintenance_url(), Some((postgres, folder)))
            }
        };
        let mut server = Self {
            maintenance_url,
            template: String::new(),
            embedded,
        };
        server.template = server.make_template().await;
        server
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.maintenance_url)
            .await
            .expect("the test server answers")
    }

    async fn execute(&self, statement: &str) {
        let mut connection = self.connect().await;
        connection
            .execute(AssertSqlSafe(statement.to_owned()))
            .await
            .expect("the test server obeys");
        connection.close().await.expect("the connection closes");
    }

    /// The migrated template of this build; the first of the processes that share the server makes it.
    async fn make_template(&self) -> String {
        let template = format!("template_{}", Store::schema_fingerprint());
        let mut connection = self.connect().await;
        // Held until the connection is closed.
        connection
            .execute("select pg_advisory_lock(7103)")
            .await
            .expect("the lock is granted");
        let there: Option<(i32,)> = sqlx::query_as("select 1 from pg_database where datname = $1")
            .bind(&template)
            .fetch_optional(&mut connection)
            .await
            .expect("the catalogue can be read");
        if there.is_none() {
            let partial = format!("{template}_partial");
            self.execute(&format!("drop database if exists {partial}")).await;
            self.execute(&format!("create database {partial}")).await;
            let settings = StoreSettings::new(with_database(&self.maintenance_url, &partial));
            let store = Store::connect(&settings).await.expect("the template answers");
            store.migrate().await.expect("the migrations apply");
            store.close().await;
            self.execute(&format!("alter database {partial} rename to {template}"))
                .await;
        }
        connection.close().await.expect("the connection closes");
        template
    }
}

impl Drop for Server {
    /// The folder is removed after the server has ended.
    fn drop(&mut self) {
        let Some((postgres, folder)) = self.embedded.take() else {
            return;
        };
        let stopping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let stopped = runtime.block_on(postgres.stop()).map_err(std::io::Error::other);
            drop(folder);
            stopped
        });
        let _: std::thread::Result<Result<(), std::io::Error>> = stopping.join();
    }
}

/// The same server, another database.
fn with_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a database url has a path");
    format!("{server}/{database}")
}
