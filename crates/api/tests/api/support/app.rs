//! An API on a free port, with a database and an object store of its own.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tunesmith_api::auth::SigningKey;
use tunesmith_api::{ApiSettings, ApiState};
use tunesmith_blobs::embedded::EmbeddedS3;
use tunesmith_blobs::{Blobs, S3Credentials};
use tunesmith_store::notifications::Notifications;
use tunesmith_testing::TestDatabase;
use utoipa_axum::router::OpenApiRouter;

use super::Client;

/// A running API; gone when dropped.
pub(crate) struct App {
    pub(crate) state: ApiState,
    url: String,
    _database: TestDatabase,
    _objects: EmbeddedS3,
    _folder: TempDir,
    _stop: oneshot::Sender<()>,
}

impl App {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// An API with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ApiSettings)) -> Self {
        let database = TestDatabase::create().await;
        let folder = tempfile::tempdir().unwrap();
        let credentials = S3Credentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test-secret".to_owned(),
        };
        let objects = EmbeddedS3::start(folder.path(), credentials, 0).await.unwrap();
        let blobs = Blobs::connect(&objects.settings()).await;
        let notifications = Notifications::listen(database.store()).await.unwrap();
        let mut settings = ApiSettings::new(SigningKey::generate().unwrap());
        change(&mut settings);
        let state = ApiState::new(database.store().clone(), blobs, Arc::new(notifications), settings);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = tunesmith_api::application(&state, OpenApiRouter::new());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(tunesmith_api::serve(listener, router, async move {
            let _ = stopped.await;
        }));
        Self {
            state,
            url,
            _database: database,
            _objects: objects,
            _folder: folder,
            _stop: stop,
        }
    }

    /// A caller without credentials.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// The owner of a new organization of this name.
    pub(crate) async fn sign_up(&self, name: &str) -> Client {
        let body = serde_json::json!({
            "email": format!("{name}@example.com"), "password": "correct horse", "organization_name": name,
        });
        let session = self.anonymous().post("/v1/auth/signup", &body).await.ok(201);
        self.anonymous()
            .with_token(session["tokens"]["access_token"].as_str().unwrap())
    }
}
