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
use tunesmith_gateway::{
    Gateway, GatewaySettings, ReplicaKind, ReplicaSecret, ReplicaSource, StaticReplica, router,
};
use tunesmith_store::{
    Store,
    adapters::NewAdapterVersion,
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

use crate::{
    fixtures::{base_model, dataset, sign_up},
    vllm::{FakeVllm, recorded_probe},
};

/// Everything that a test of the gateway needs.
pub(crate) struct Bench {
    /// The first of the replicas.
    pub(crate) replica: FakeVllm,
    /// All of them.
    pub(crate) replicas: Vec<FakeVllm>,
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

pub(crate) fn digest(bytes: &[u8]) -> Sha256Digest {
    hex::encode(Sha256::digest(bytes)).parse().unwrap()
}

/// How a bench differs from the usual one.
pub(crate) struct Setup {
    pub(crate) replicas: usize,
    pub(crate) kind: ReplicaKind,
    pub(crate) max_adapters: Option<u32>,
    pub(crate) api_key: Option<&'static str>,
    pub(crate) settings: fn(&mut GatewaySettings),
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            replicas: 1,
            kind: ReplicaKind::Vllm,
            max_adapters: None,
            api_key: None,
            settings: |_| {},
        }
    }
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let (database, blobs) = (TestDatabase::create().await, TestBlobs::start().await);
        blobs.client().ensure_bucket().await.unwrap();
        let store = database.store();
        let organization = sign_up(store, "ada@example.com").await;
        let base = base_model(store, organization).await;
        let dataset = dataset(store, organization).await;
        let cache = tempfile::tempdir().unwrap();
        let (mut replicas, mut given) = (Vec::new(), Vec::new());
        for _ in 0..setup.replicas {
            let replica = FakeVllm::start().await;
            replica.faults(|faults| faults.api_key = setup.api_key.map(ToOwned::to_owned));
            given.push(StaticReplica {
                max_adapters: setup.max_adapters,
                api_key: setup.api_key.map(|key| ReplicaSecret::new(key.to_owned())),
                ..StaticReplica::new(&base.to_string(), &replica.url, setup.kind)
            });
            replicas.push(replica);
        }
        let mut settings = GatewaySettings {
            start_wait: Duration::from_secs(20),
            reconcile_every: Duration::from_millis(100),
            unload_grace: Duration::ZERO,
            canary_every: Duration::from_millis(50),
            retry_pause: Duration::from_millis(20),
            ..GatewaySettings::new(cache.path().to_owned())
        };
        (setup.settings)(&mut settings);
        let source = ReplicaSource::external(given);
        let (gateway, reconciler) =
            Gateway::new(store.clone(), blobs.client().clone(), source, settings).unwrap();
        let stop = CancellationToken::new();
        let notifications = Notifications::listen(store).await.unwrap();
        Self {
            replica: replicas[0].clone(),
            replicas,
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

    /// A version whose B matrix is filled with `fill`, without golden answers.
    pub(crate) async fn publish(&self, adapter: &str, fill: u8) -> AdapterVersionId {
        self.publish_with(adapter, fill, json!({})).await
    }

    /// The same, with the answers that an adapter filled with `probed` gives.
    pub(crate) async fn publish_probed(&self, adapter: &str, fill: u8, probed: u8) -> AdapterVersionId {
        self.publish_scaled(adapter, fill, probed, json!({})).await
    }

    /// The same, with further fields in its `adapter_config.json`.
    pub(crate) async fn publish_scaled(
        &self,
        adapter: &str,
        fill: u8,
        probed: u8,
        config: Value,
    ) -> AdapterVersionId {
        let probes = [
            recorded_probe(probed, &[1, 2, 3]),
            recorded_probe(probed, &[9, 4]),
        ];
        self.publish_as(adapter, fill, json!({"probes": probes}), config)
            .await
    }

    async fn publish_with(&self, adapter: &str, fill: u8, manifest: Value) -> AdapterVersionId {
        self.publish_as(adapter, fill, manifest, json!({})).await
    }

    async fn publish_as(
        &self,
        adapter: &str,
        fill: u8,
        manifest: Value,
        mut config: Value,
    ) -> AdapterVersionId {
        let new = NewJob {
            adapter: &name(adapter),
            base_model_id: self.base,
            dataset_id: self.dataset,
            parent_version_id: None,
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
        config["r"] = json!(1);
        config["name"] = json!(adapter);
        let config = config.to_string().into_bytes();
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
            manifest,
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
        let settled = async {
            loop {
                let latest = self.latest(deployment).await;
                if latest.state != RevisionState::Pending {
                    return latest;
                }
                changes.next().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled)
            .await
            .unwrap_or_else(|_| panic!("{deployment} does not settle"))
    }

    /// The newest revision of a deployment.
    pub(crate) async fn latest(&self, deployment: &str) -> Revision {
        let found = deployments::find(self.store(), self.organization, deployment).await;
        found.unwrap().latest.unwrap()
    }

    /// Deletes a deployment.
    pub(crate) async fn delete(&self, deployment: &str) {
        let found = deployments::find(self.store(), self.organization, deployment).await;
        deployments::delete(self.store(), self.organization, found.unwrap().id)
            .await
            .unwrap();
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
        let request = request.header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        self.answer(organization, request).await
    }

    /// A POST of whatever `body` is.
    pub(crate) async fn send_raw(&self, path: &str, content_type: &str, body: String) -> Response<Body> {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", content_type);
        let request = request.body(Body::from(body)).unwrap();
        self.answer(self.organization, request).await
    }

    async fn answer(&self, organization: OrganizationId, request: Request<Body>) -> Response<Body> {
        let principal = Principal {
            organization_id: organization,
            user_id: None,
            api_key_id: None,
            role: Role::Viewer,
        };
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
