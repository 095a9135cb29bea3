//! A platform of one organization, one base model and one worker, on a real PostgreSQL and a real S3 server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunesmith_blobs::BlobKey;
use tunesmith_store::{
    Store,
    accounts::{self, NewAccount},
    adapters::{self, AdapterVersion},
    base_models::{self, BaseModelDetails, NewBaseModel},
    datasets::{self, NewDataset, Validation},
    events::{self, Event},
    files::StoredFile,
    jobs::{self, Job, NewJob},
    runs::{self, Run},
};
use tunesmith_testing::{TestBlobs, TestDatabase};
use tunesmith_types::{
    hyperparameters::HyperparametersRequest,
    ids::{AdapterVersionId, BaseModelId, DatasetId, JobId, OrganizationId},
    list::Page,
};
use tunesmith_worker::{Worker, WorkerError, WorkerSettings};

pub(crate) struct Platform {
    pub(crate) database: TestDatabase,
    pub(crate) blobs: TestBlobs,
    pub(crate) folder: TempDir,
    pub(crate) organization: OrganizationId,
    base_model: BaseModelId,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::start_with(BaseModelFiles::scripted(&json!([]))).await
    }

    pub(crate) async fn start_with(base_model: BaseModelFiles) -> Self {
        let database = TestDatabase::create().await;
        let blobs = TestBlobs::start().await;
        let account = NewAccount {
            email: "owner@example.org",
            password_hash: "none",
            organization_name: "tests",
        };
        let (_, organization) = accounts::sign_up(database.store(), &account).await.unwrap();
        let base_model =
            register_base_model(database.store(), &blobs, organization.id, "tiny", base_model).await;
        Self {
            database,
            blobs,
            folder: tempfile::tempdir().unwrap(),
            organization: organization.id,
            base_model,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.database.store()
    }

    /// Queues a job whose child follows the script.
    pub(crate) async fn queue(&self, script: Value) -> JobId {
        self.queue_with_attempts(script, 3).await
    }

    pub(crate) async fn queue_with_attempts(&self, script: Value, max_attempts: i32) -> JobId {
        let request = HyperparametersRequest {
            rank: Some(2),
            ..Default::default()
        };
        self.queue_dataset(format!("{script}\n"), &request, max_attempts)
            .await
    }

    /// Another base model that every organization may use.
    pub(crate) async fn another_base_model(&self) -> BaseModelId {
        let files = BaseModelFiles::scripted(&json!([]));
        register_base_model(self.store(), &self.blobs, self.organization, "other", files).await
    }

    pub(crate) async fn queue_on(&self, base_model: BaseModelId, script: Value) -> JobId {
        let request = HyperparametersRequest {
            rank: Some(2),
            ..Default::default()
        };
        self.queue_dataset_on(base_model, format!("{script}\n"), &request, 3, None)
            .await
    }

    pub(crate) async fn queue_dataset(
        &self,
        lines: String,
        request: &HyperparametersRequest,
        max_attempts: i32,
    ) -> JobId {
        self.queue_dataset_on(self.base_model, lines, request, max_attempts, None)
            .await
    }

    /// A job that begins with the adapter of a version.
    pub(crate) async fn queue_child(
        &self,
        parent: AdapterVersionId,
        lines: String,
        request: &HyperparametersRequest,
    ) -> JobId {
        self.queue_dataset_on(self.base_model, lines, request, 1, Some(parent))
            .await
    }

    async fn queue_dataset_on(
        &self,
        base_model: BaseModelId,
        lines: String,
        request: &HyperparametersRequest,
        max_attempts: i32,
        parent_version_id: Option<AdapterVersionId>,
    ) -> JobId {
        let id = DatasetId::new();
        let key = BlobKey::dataset(self.organization, id);
        let stored = self.blobs.client().put_bytes(&key, lines).await.unwrap();
        let new = NewDataset {
            id,
            name: &"scripts".parse().unwrap(),
            sha256: &stored.sha256,
            bytes: i64::try_from(stored.bytes).unwrap(),
            blob_key: key.as_str(),
            created_by: None,
        };
        datasets::create(self.store(), self.organization, &new)
            .await
            .unwrap();
        let validation = Validation {
            valid: true,
            examples: 8,
            report: &json!({}),
        };
        datasets::finish_validation(self.store(), self.organization, id, &validation)
            .await
            .unwrap();
        let new = NewJob {
            adapter: &"support".parse().unwrap(),
            base_model_id: base_model,
            dataset_id: id,
            parent_version_id,
            hyperparameters: &request.resolve(None).unwrap(),
            max_attempts,
            created_by: None,
        };
        jobs::create(self.store(), self.organization, &new)
            .await
            .unwrap()
            .id
    }

    /// Short times, so that what takes minutes in the field takes moments here.
    pub(crate) fn settings(&self, name: &str) -> WorkerSettings {
        let folder = self.folder.path().join(name);
        let mut settings = WorkerSettings::new(name, folder, scripted_trainer());
        settings.queue.retry_base = Duration::from_millis(50);
        settings.timings.poll = Duration::from_millis(200);
        settings.timings.reap = Duration::from_millis(100);
        settings.timings.renew_least = Duration::from_millis(20);
        settings.timings.metrics_flush = Duration::from_millis(20);
        settings.timings.retry = Duration::from_millis(20);
        settings
    }

    pub(crate) fn work(&self, settings: WorkerSettings) -> RunningWorker {
        let shutdown = CancellationToken::new();
        let running = Worker::run(
            settings,
            self.store().clone(),
            self.blobs.client().clone(),
            shutdown.clone(),
        );
        RunningWorker {
            shutdown,
            task: tokio::spawn(running),
        }
    }

    pub(crate) async fn job(&self, job: JobId) -> Job {
        jobs::get(self.store(), self.organization, job).await.unwrap()
    }

    pub(crate) async fn until(&self, job: JobId, condition: impl Fn(&Job) -> bool) -> Job {
        loop {
            let row = self.job(job).await;
            if condition(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn ended(&self, job: JobId) -> Job {
        self.until(job, |job| job.state.is_final()).await
    }

    pub(crate) async fn runs(&self, job: JobId) -> Vec<Run> {
        runs::list(self.store(), self.organization, job).await.unwrap()
    }

    /// All events, the first one first.
    pub(crate) async fn events(&self, job: JobId) -> Vec<Event> {
        events::since(self.store(), self.organization, job, None, 1000)
            .await
            .unwrap()
    }

    pub(crate) async fn event_codes(&self, job: JobId) -> Vec<String> {
        self.events(job)
            .await
            .into_iter()
            .map(|event| event.code)
            .collect()
    }

    pub(crate) async fn until_event(&self, job: JobId, code: &str) -> Event {
        loop {
            if let Some(event) = self
                .events(job)
                .await
                .into_iter()
                .find(|event| event.code == code)
            {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The versions that all jobs have made.
    pub(crate) async fn versions(&self) -> Vec<AdapterVersion> {
        let page = Page {
            after: None,
            limit: 100,
        };
        adapters::versions(self.store(), self.organization, "support", &page)
            .await
            .unwrap()
            .rows
    }

    /// The bytes of a version's weights, checked against its row.
    pub(crate) async fn weights(&self, version: &AdapterVersion) -> Vec<u8> {
        let file = version
            .files
            .iter()
            .find(|file| file.name == "adapter_model.safetensors")
            .unwrap();
        self.read(file).await
    }

    pub(crate) async fn read(&self, file: &StoredFile) -> Vec<u8> {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("copy");
        let (key, sha256) = (file.key.parse().unwrap(), file.sha256.parse().unwrap());
        self.blobs
            .client()
            .get_to_file(&key, &path, Some(&sha256))
            .await
            .unwrap();
        std::fs::read(path).unwrap()
    }

    /// Run directories that a worker has left behind, once it had time to remove them.
    pub(crate) async fn run_directories_are_gone(&self, worker: &str) {
        let runs = self.folder.path().join(worker).join("worker/runs");
        while std::fs::read_dir(&runs).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) struct RunningWorker {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl RunningWorker {
    /// Drains, as on SIGTERM.
    pub(crate) async fn drain(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends without a word, as on SIGKILL.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn scripted_trainer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worker/scripted_trainer.py")
}

/// The process id in a `pid …` warning.
pub(crate) fn pid(event: &Event) -> u32 {
    event.message.strip_prefix("pid ").unwrap().parse().unwrap()
}

/// Whether a process with the id in a `pid …` warning still runs.
pub(crate) fn is_alive(event: &Event) -> bool {
    let pid = pid(event);
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; its parent has not been told yet.
    !status.is_empty() && !status.contains(") Z ")
}

/// Names and bytes of a base model's files.
pub(crate) struct BaseModelFiles(Vec<(String, Vec<u8>)>);

impl BaseModelFiles {
    /// A base model with which the scripted trainer does this before it is ready.
    pub(crate) fn scripted(loading: &Value) -> Self {
        let config = json!({"loading": loading}).to_string();
        let files = [
            ("config.json", config.as_str()),
            ("tokenizer.json", "{}"),
            ("model.safetensors", "weights"),
        ];
        Self(files.map(|(name, text)| (name.to_owned(), text.into())).to_vec())
    }

    pub(crate) fn read(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let file = |path: PathBuf| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            )
        };
        Self(entries.map(file).collect())
    }
}

async fn register_base_model(
    store: &Store,
    blobs: &TestBlobs,
    organization: OrganizationId,
    name: &str,
    base_model: BaseModelFiles,
) -> BaseModelId {
    let id = BaseModelId::new();
    let mut files = Vec::new();
    let config = base_model.0.iter().find(|(name, _)| name == "config.json");
    let config: Value = serde_json::from_slice(&config.unwrap().1).unwrap();
    for (file, bytes) in base_model.0 {
        let key = BlobKey::base_model_file(id, &file).unwrap();
        let stored = blobs.client().put_bytes(&key, bytes).await.unwrap();
        files.push(StoredFile {
            name: file,
            key: key.to_string(),
            sha256: stored.sha256.to_string(),
            bytes: stored.bytes,
        });
    }
    let name = name.parse().unwrap();
    let new = NewBaseModel {
        id,
        owner: Some(organization),
        name: &name,
        created_by: None,
    };
    base_models::create(store, &new).await.unwrap();
    let details = BaseModelDetails {
        config,
        digest: "1".repeat(64).parse().unwrap(),
        tokenizer_digest: "2".repeat(64).parse().unwrap(),
        template_digest: None,
        files,
        parameters: 1,
        max_seq_len: 4096,
    };
    base_models::complete(store, Some(organization), id, &details)
        .await
        .unwrap();
    id
}
