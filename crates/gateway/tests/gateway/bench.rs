//! An organization with a base model, a replica for it, and a gateway with its reconciler.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tunesmith_blobs::{BlobKey, keys::RunPlace};
use tunesmith_gateway::{Gateway, GatewaySettings, ReplicaSource, StaticReplica, router};
use tunesmith_store::{
    Store, accounts,
    adapters::NewAdapterVersion,
    base_models::{self, BaseModelDetails, NewBaseModel},
    datasets::{self, NewDataset, Validation},
    deployments::{self, NewDeployment},
    files::StoredFile,
    jobs::{self, NewJob},
    notifications::Notifications,
    queue::{self, Completion, QueueSettings},
    revisions::{self, NewRevision, Revision, Route},
};
use tunesmith_testing::{TestBlobs, TestDatabase};
use tunesmith_types::{
    hyperparameters::HyperparametersRequest,
    ids::{AdapterVersionId, BaseModelId, DatasetId, DeploymentId, OrganizationId},
    names::{ResourceName, Sha256Digest},
    principal::{Principal, Role},
    states::{RevisionKind, RevisionState},
};

use crate::replica::FakeReplica;

/// Everything that a test of the gateway needs.
pub(crate) struct Bench {
    pub(crate) replica: FakeReplica,
    pub(crate) organization: OrganizationId,
    base: BaseModelId,
    dataset: DatasetId,
    database: TestDatabase,
    blobs: TestBlobs,
    router: Router,
    notifications: Notifications,
    cache: tempfile::TempDir,
    stop: CancellationToken,
    reconciler: JoinHandle<()>,
}

pub(crate) fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn digest(bytes: &[u8]) -> Sha256Digest {
    hex::encode(Sha256::digest(bytes)).parse().unwrap()
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let (database, blobs, replica) = (
            TestDatabase::create().await,
            TestBlobs::start().await,
            FakeReplica::start().await,
        );
        blobs.client().ensure_bucket().await.unwrap();
        let store = database.store();
        let organization = sign_up(store, "ada@example.com").await;
        let base = base_model(store, organization).await;
        let dataset = dataset(store, organization).await;
        let cache = tempfile::tempdir().unwrap();
        let source = ReplicaSource::Static(vec![StaticReplica {
            base_model: base.to_string(),
            url: replica.url.clone(),
        }]);
        let settings = GatewaySettings {
            start_wait: Duration::from_secs(20),
            reconcile_every: Duration::from_millis(100),
            unload_grace: Duration::ZERO,
            canary_every: Duration::from_millis(50),
            ..GatewaySettings::new(cache.path().to_owned())
        };
        let (gateway, reconciler) =
            Gateway::new(store.clone(), blobs.client().clone(), source, settings).unwrap();
        let stop = CancellationToken::new();
        let notifications = Notifications::listen(store).await.unwrap();
        Self {
            replica,
            organization,
            base,
            dataset,
            router: router(gateway).split_for_parts().0,
            notifications,
            cache,
            reconciler: tokio::spawn(reconciler.run(stop.clone())),
            stop,
            database,
            blobs,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.database.store()
    }

    /// Folder of staged adapters.
    pub(crate) fn staged(&self) -> std::path::PathBuf {
        self.cache.path().join("adapters")
    }

    /// A version whose B matrix is filled with `fill`.
    pub(crate) async fn publish(&self, adapter: &str, fill: u8) -> AdapterVersionId {
        let new = NewJob {
            adapter: &name(adapter),
            base_model_id: self.base,
            dataset_id: self.dataset,
            hyperparameters: &HyperparametersRequest::default().resolve(None).unwrap(),
            max_attempts: 3,
            created_by: None,
        };
        jobs::create(self.store(), self.organization, &new).await.unwrap();
        let claimed = queue::claim(self.store(), &QueueSettings::default(), "bench")
            .await
            .unwrap()
            .unwrap();
        let token = &claimed.token;
        let place = RunPlace {
            job: token.job_id,
            epoch: token.epoch,
            lease: token.lease_id,
        };
        let a = [fill.wrapping_add(1); 8];
        let b = [fill; 4];
        let tensors = [
            (
                "l.lora_A.weight",
                TensorView::new(Dtype::F32, vec![1, 2], &a).unwrap(),
            ),
            (
                "l.lora_B.weight",
                TensorView::new(Dtype::F32, vec![1, 1], &b).unwrap(),
            ),
        ];
        let weights = safetensors::serialize(tensors, None).unwrap();
        let config = format!("{{\"r\": 1, \"name\": \"{adapter}\"}}").into_bytes();
        let whole = digest(&[weights.clone(), config.clone()].concat());
        let mut files = Vec::new();
        for (file, bytes) in [
            ("adapter_model.safetensors", weights),
            ("adapter_config.json", config),
        ] {
            let key = BlobKey::adapter_file(place, file).unwrap();
            let stored = self.blobs.client().put_bytes(&key, bytes).await.unwrap();
            let (key, sha256) = (key.to_string(), stored.sha256.to_string());
            files.push(StoredFile {
                name: file.to_owned(),
                key,
                sha256,
                bytes: stored.bytes,
            });
        }
        let version = NewAdapterVersion {
            digest: whole,
            manifest: json!({}),
            files,
            metrics: json!({}),
        };
        let completion = Completion {
            version,
            metrics_file: None,
            steps: 1,
        };
        queue::complete(self.store(), token, &completion)
            .await
            .unwrap()
            .version_id
    }

    /// Damages the stored weights of a version behind everybody's back.
    pub(crate) async fn damage(&self, version: AdapterVersionId) {
        let version = tunesmith_store::adapters::version(self.store(), self.organization, version)
            .await
            .unwrap();
        let weights = version
            .files
            .iter()
            .find(|file| file.name.ends_with(".safetensors"))
            .unwrap();
        std::fs::write(
            self.blobs.file_of(&weights.key.parse().unwrap()),
            b"not what it was",
        )
        .unwrap();
    }

    pub(crate) async fn deploy(&self, deployment: &str, version: Option<AdapterVersionId>) {
        let new = NewDeployment {
            name: &name(deployment),
            base_model_id: self.base,
            routes: &[Route::pinned(version, 100)],
            created_by: None,
        };
        deployments::create(self.store(), self.organization, &new)
            .await
            .unwrap();
    }

    pub(crate) async fn promote(&self, deployment: &str, version: AdapterVersionId) {
        let routes = [Route::pinned(Some(version), 100)];
        self.revise(deployment, RevisionKind::Promote, &routes).await;
    }

    /// Makes the next revision.
    pub(crate) async fn revise(&self, deployment: &str, kind: RevisionKind, routes: &[Route]) -> Revision {
        let id = self.id_of(deployment).await;
        let new = NewRevision::new(kind, routes);
        revisions::create(self.store(), self.organization, id, &new)
            .await
            .unwrap()
    }

    pub(crate) async fn id_of(&self, deployment: &str) -> DeploymentId {
        let found = deployments::find(self.store(), self.organization, deployment).await;
        found.unwrap().id
    }

    /// Waits until the newest revision of a deployment is no longer pending.
    pub(crate) async fn settled(&self, deployment: &str) -> Revision {
        let mut changes = self.notifications.subscribe();
        loop {
            let found = deployments::find(self.store(), self.organization, deployment)
                .await
                .unwrap();
            let latest = found.latest.unwrap();
            if latest.state != RevisionState::Pending {
                return latest;
            }
            changes.next().await;
        }
    }

    /// A request of this organization.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Response<Body> {
        self.send_as(self.organization, method, path, body).await
    }

    pub(crate) async fn send_as(
        &self,
        organization: OrganizationId,
        method: &str,
        path: &str,
        body: Value,
    ) -> Response<Body> {
        let request = Request::builder().method(method).uri(path);
        self.send_request(organization, request, body).await
    }

    async fn send_request(
        &self,
        organization: OrganizationId,
        request: axum::http::request::Builder,
        body: Value,
    ) -> Response<Body> {
        let principal = Principal {
            organization_id: organization,
            user_id: None,
            api_key_id: None,
            role: Role::Viewer,
        };
        let request = request
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.router
            .clone()
            .layer(Extension(principal))
            .oneshot(request)
            .await
            .unwrap()
    }

    /// A chat with `model`.
    pub(crate) async fn chat(&self, model: &str, extra: Value) -> Response<Body> {
        self.send("POST", "/v1/chat/completions", chat_body(model, extra))
            .await
    }

    /// A chat in a conversation.
    pub(crate) async fn chat_in(&self, session: &str, model: &str, extra: Value) -> Response<Body> {
        let request = Request::builder()
            .method("POST")
            .uri("/v1/chat/completions")
            .header("x-tunesmith-session", session);
        self.send_request(self.organization, request, chat_body(model, extra))
            .await
    }

    pub(crate) async fn stranger(&self) -> OrganizationId {
        sign_up(self.store(), "eve@example.com").await
    }

    pub(crate) async fn stop(mut self) {
        self.halt().await;
    }

    /// Ends what runs beside the router; the database stays.
    pub(crate) async fn halt(&mut self) {
        self.stop.cancel();
        (&mut self.reconciler).await.unwrap();
    }
}

pub(crate) fn chat_body(model: &str, extra: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().cloned().unwrap_or_default());
    body
}

pub(crate) async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

pub(crate) async fn json_of(response: Response<Body>) -> (StatusCode, Value) {
    let (status, text) = text(response).await;
    (status, serde_json::from_str(&text).unwrap())
}

async fn sign_up(store: &Store, email: &str) -> OrganizationId {
    let new = accounts::NewAccount {
        email,
        password_hash: "$argon2id$",
        organization_name: "Ada's",
    };
    accounts::sign_up(store, &new).await.unwrap().1.id
}

async fn base_model(store: &Store, owner: OrganizationId) -> BaseModelId {
    let id = BaseModelId::new();
    let new = NewBaseModel {
        id,
        owner: Some(owner),
        name: &name("primer"),
        created_by: None,
    };
    base_models::create(store, &new).await.unwrap();
    let file = StoredFile {
        name: "config.json".to_owned(),
        key: "x".to_owned(),
        sha256: "0".repeat(64),
        bytes: 1,
    };
    let details = BaseModelDetails {
        config: json!({}),
        digest: digest(b"base"),
        tokenizer_digest: digest(b"tokenizer"),
        template_digest: None,
        files: vec![file],
        parameters: 1,
        max_seq_len: 512,
    };
    base_models::complete(store, Some(owner), id, &details)
        .await
        .unwrap();
    id
}

async fn dataset(store: &Store, organization: OrganizationId) -> DatasetId {
    let id = DatasetId::new();
    let new = NewDataset {
        id,
        name: &name("data"),
        sha256: &digest(b"data"),
        bytes: 1,
        blob_key: "x",
        created_by: None,
    };
    datasets::create(store, organization, &new).await.unwrap();
    let validation = Validation {
        valid: true,
        examples: 1,
        report: &json!({"errors": []}),
    };
    datasets::finish_validation(store, organization, id, &validation)
        .await
        .unwrap();
    id
}
