//! An organization with a valid dataset and a ready base model, and shortcuts around jobs.

use std::time::Duration;

use serde_json::json;
use tunesmith_store::{
    Store, accounts,
    adapters::NewAdapterVersion,
    base_models::{self, BaseModelDetails, NewBaseModel},
    datasets::{self, NewDataset, Validation},
    files::StoredFile,
    jobs::{self, Job, JobError, NewJob},
    queue::{self, Blame, ClaimedJob, Completion, LeaseToken, QueueSettings, RunFailure},
};
use tunesmith_testing::TestDatabase;
use tunesmith_types::{
    hyperparameters::HyperparametersRequest,
    ids::{BaseModelId, DatasetId, JobId, OrganizationId, UserId},
    names::{ResourceName, Sha256Digest},
};

/// A database with one organization that could train.
pub(crate) struct Bench {
    pub(crate) database: TestDatabase,
    pub(crate) organization: OrganizationId,
    pub(crate) user: UserId,
    pub(crate) dataset: DatasetId,
    pub(crate) base_model: BaseModelId,
    pub(crate) settings: QueueSettings,
}

pub(crate) fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

pub(crate) fn digest(digit: char) -> Sha256Digest {
    digit.to_string().repeat(64).parse().unwrap()
}

pub(crate) fn file(name: &str) -> StoredFile {
    StoredFile {
        name: name.into(),
        key: format!("a/{name}"),
        sha256: "0".repeat(64),
        bytes: 7,
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let store = database.store();
        let (user, organization) = sign_up(store, "ada@example.com").await;
        let dataset = valid_dataset(store, organization, "support").await;
        let base_model = ready_base_model(store, None, "primer").await;
        let settings = QueueSettings::default();
        Self {
            organization,
            user,
            dataset,
            base_model,
            settings,
            database,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.database.store()
    }

    pub(crate) async fn job(&self) -> Job {
        self.job_of("tone").await
    }

    pub(crate) async fn job_of(&self, adapter: &str) -> Job {
        let new = NewJob {
            adapter: &name(adapter),
            base_model_id: self.base_model,
            dataset_id: self.dataset,
            parent_version_id: None,
            hyperparameters: &HyperparametersRequest::default().resolve(None).unwrap(),
            max_attempts: 3,
            created_by: Some(self.user),
        };
        jobs::create(self.store(), self.organization, &new).await.unwrap()
    }

    /// The next job of the queue, which must have one.
    pub(crate) async fn claim(&self, worker: &str) -> ClaimedJob {
        queue::claim(self.store(), &self.settings, worker)
            .await
            .unwrap()
            .expect("a job is due")
    }

    /// Lets the lease run out now, as a silent worker would in a minute.
    pub(crate) async fn let_expire(&self, token: &LeaseToken) {
        let at_once = QueueSettings {
            ttl: Duration::ZERO,
            ..self.settings
        };
        queue::renew(self.store(), &at_once, token).await.unwrap();
    }

    /// Settings under which an expired lease may be taken over without a pause.
    pub(crate) fn impatient(&self) -> QueueSettings {
        QueueSettings {
            takeover_grace: Duration::ZERO,
            retry_base: Duration::ZERO,
            ..self.settings
        }
    }

    pub(crate) async fn reload(&self, job: JobId) -> Job {
        jobs::get(self.store(), self.organization, job).await.unwrap()
    }

    pub(crate) async fn event_codes(&self, job: JobId) -> Vec<String> {
        let events = tunesmith_store::events::since(self.store(), self.organization, job, None, 100)
            .await
            .unwrap();
        events.into_iter().map(|event| event.code).collect()
    }

    /// A finished job's version of the named adapter.
    pub(crate) async fn publish(&self, adapter: &str) -> queue::Published {
        self.job_of(adapter).await;
        let claimed = self.claim("publisher").await;
        queue::complete(self.store(), &claimed.token, &completion())
            .await
            .unwrap()
    }
}

pub(crate) async fn sign_up(store: &Store, email: &str) -> (UserId, OrganizationId) {
    let account = accounts::NewAccount {
        email,
        password_hash: "$argon2id$",
        organization_name: "Ada's",
    };
    let (user, organization) = accounts::sign_up(store, &account).await.unwrap();
    (user.id, organization.id)
}

pub(crate) async fn valid_dataset(
    store: &Store,
    organization: OrganizationId,
    dataset_name: &str,
) -> DatasetId {
    let id = DatasetId::new();
    let new = NewDataset {
        id,
        name: &name(dataset_name),
        sha256: &digest('a'),
        bytes: 10,
        blob_key: "datasets/x.jsonl",
        created_by: None,
    };
    datasets::create(store, organization, &new).await.unwrap();
    let validation = Validation {
        valid: true,
        examples: 3,
        report: &json!({"errors": []}),
    };
    datasets::finish_validation(store, organization, id, &validation)
        .await
        .unwrap();
    id
}

pub(crate) async fn ready_base_model(
    store: &Store,
    owner: Option<OrganizationId>,
    model_name: &str,
) -> BaseModelId {
    let id = BaseModelId::new();
    let new = NewBaseModel {
        id,
        owner,
        name: &name(model_name),
        created_by: None,
    };
    base_models::create(store, &new).await.unwrap();
    let details = BaseModelDetails {
        config: json!({"model_type": "llama"}),
        digest: digest('b'),
        tokenizer_digest: digest('c'),
        template_digest: None,
        files: vec![file("model.safetensors")],
        parameters: 1_000,
        max_seq_len: 512,
    };
    base_models::complete(store, owner, id, &details).await.unwrap();
    id
}

pub(crate) fn completion() -> Completion {
    Completion {
        version: NewAdapterVersion {
            digest: digest('d'),
            manifest: json!({"rank": 16}),
            files: vec![file("adapter_config.json"), file("adapter_model.safetensors")],
            metrics: json!({"loss": 0.5}),
        },
        metrics_file: Some(file("metrics.jsonl")),
        steps: 10,
    }
}

pub(crate) fn failure(retryable: bool) -> RunFailure {
    let error = JobError {
        code: "child_crashed".into(),
        message: "The trainer ended with signal 11.".into(),
    };
    RunFailure {
        error,
        retryable,
        blame: Blame::Own,
    }
}
