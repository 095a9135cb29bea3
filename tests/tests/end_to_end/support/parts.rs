//! `tunesmith api` and `tunesmith worker` as processes of their own, on a database and an S3 server of the test.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tunesmith_blobs::{BlobSettings, S3Credentials, embedded::EmbeddedS3};
use tunesmith_testing::TestDatabase;

use super::{Client, executable, is_alive, kill_hard, terminate, wait_until};

/// External services and the API on them; workers come and go.
pub(crate) struct Parts {
    folder: TempDir,
    database: TestDatabase,
    objects: EmbeddedS3,
    api: Running,
    pub(crate) client: Client,
}

/// A process that ends with this value at the latest.
pub(crate) struct Running(Child);

impl Parts {
    /// With the tiny base model registered as `tiny`, and no worker yet.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = TestDatabase::create().await;
        let credentials = S3Credentials {
            access_key_id: "tester".to_owned(),
            secret_access_key: "secret-of-the-test".to_owned(),
        };
        let objects = EmbeddedS3::start(&folder.path().join("objects"), credentials, 0)
            .await
            .unwrap();
        let ready_file = folder.path().join("ready.json");
        let mut command = command_on(&database, &objects.settings(), folder.path(), "api");
        command
            .args(["api", "--listen", "127.0.0.1:0", "--ready-file"])
            .arg(&ready_file);
        command.arg("--cache-dir").arg(folder.path().join("api-cache"));
        let api = Running(command.spawn().unwrap());
        let ready: Value = wait_until("the API", || {
            let text = std::fs::read_to_string(&ready_file).ok();
            async move { serde_json::from_str(&text?).ok() }
        })
        .await;
        let client = Client::new(ready["api_url"].as_str().unwrap(), None)
            .sign_up("parts")
            .await;
        client
            .register_base_model("tiny", &super::tiny_base_model())
            .await;
        Self {
            folder,
            database,
            objects,
            api,
            client,
        }
    }

    /// The API, whose memory holds no object store.
    pub(crate) fn api_pid(&self) -> u32 {
        self.api.pid()
    }

    /// One more worker.
    pub(crate) fn start_worker(&self) -> Running {
        let work_dir = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let mut command = command_on(
            &self.database,
            &self.objects.settings(),
            self.folder.path(),
            "worker",
        );
        command
            .args(["worker", "--lease-profile", "test", "--work-dir"])
            .arg(work_dir);
        Running(command.spawn().unwrap())
    }

    pub(crate) async fn stop(self) {
        self.api.stop().await;
        self.objects.stop().await;
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// SIGTERM, and the end.
    pub(crate) async fn stop(mut self) {
        terminate(self.0.id());
        self.end().await;
    }

    /// SIGKILL, and the end.
    pub(crate) async fn kill(mut self) {
        kill_hard(self.0.id());
        self.end().await;
    }

    async fn end(&mut self) {
        wait_until("the end of a process", || {
            let ended = self.0.try_wait().unwrap();
            async move { ended }
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if is_alive(self.0.id()) {
            kill_hard(self.0.id());
            let _ = self.0.wait();
        }
    }
}

/// `tunesmith` with the external services in its environment, its words in `<name>.log`.
fn command_on(database: &TestDatabase, objects: &BlobSettings, folder: &Path, name: &str) -> Command {
    let credentials = objects.credentials.as_ref().unwrap();
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))
        .unwrap();
    let mut command = Command::new(executable("tunesmith"));
    command
        .env("DATABASE_URL", database.url())
        .env("S3_ENDPOINT", objects.endpoint.as_ref().unwrap())
        .env("S3_BUCKET", &objects.bucket)
        .env("S3_REGION", &objects.region)
        .env("AWS_ACCESS_KEY_ID", credentials.access_key_id.as_str())
        .env("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key.as_str())
        .env("TUNESMITH_LOG", "info")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
}
