//! One method per operation of the API.

use std::path::Path;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use tunesmith_types::{
    api::{
        Deleted,
        adapters::AdapterVersion,
        api_keys::{ApiKey, CreateApiKeyRequest, CreatedApiKey},
        auth::{Identity, LoginRequest, RefreshRequest, Session, SignupRequest},
        base_models::{BaseModel, CreateBaseModelRequest},
        datasets::Dataset,
        deployments::{CreateDeploymentRequest, Deployment, PromoteRequest},
        jobs::{CreateJobRequest, Job, JobEvent, JobMetrics},
    },
    ids::{BaseModelId, DatasetId, JobId},
    list::{List, PageQuery},
    version_reference::VersionReference,
};

use super::ApiClient;

impl ApiClient {
    /// A page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        page: &PageQuery,
    ) -> anyhow::Result<List<T>> {
        self.get_with(path, page).await
    }

    pub(crate) async fn sign_up(&self, request: &SignupRequest) -> anyhow::Result<Session> {
        self.post_anonymous("/v1/auth/signup", request).await
    }

    pub(crate) async fn log_in(&self, request: &LoginRequest) -> anyhow::Result<Session> {
        self.post_anonymous("/v1/auth/login", request).await
    }

    pub(crate) async fn log_out(&self, refresh_token: String) -> anyhow::Result<()> {
        let request = self.request(Method::POST, "/v1/auth/logout").await?;
        self.send(request.json(&RefreshRequest { refresh_token }))
            .await
            .map(drop)
    }

    pub(crate) async fn identity(&self) -> anyhow::Result<Identity> {
        self.get("/v1/organization").await
    }

    pub(crate) async fn create_api_key(
        &self,
        request: &CreateApiKeyRequest,
    ) -> anyhow::Result<CreatedApiKey> {
        self.post("/v1/api-keys", request).await
    }

    pub(crate) async fn api_keys(&self, page: &PageQuery) -> anyhow::Result<List<ApiKey>> {
        self.list("/v1/api-keys", page).await
    }

    pub(crate) async fn revoke_api_key(&self, id: &str) -> anyhow::Result<Deleted> {
        let request = self
            .request(Method::DELETE, &format!("/v1/api-keys/{}", segment(id)?))
            .await?;
        self.json(request).await
    }

    pub(crate) async fn base_model(&self, reference: &str) -> anyhow::Result<BaseModel> {
        self.get(&format!("/v1/base-models/{}", segment(reference)?))
            .await
    }

    pub(crate) async fn create_base_model(&self, name: &str) -> anyhow::Result<BaseModel> {
        self.post(
            "/v1/base-models",
            &CreateBaseModelRequest {
                name: name.to_owned(),
                s3_prefix: None,
            },
        )
        .await
    }

    pub(crate) async fn put_base_model_file(
        &self,
        model: BaseModelId,
        name: &str,
        body: reqwest::Body,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/base-models/{model}/files/{}", segment(name)?);
        let request = self.request(Method::PUT, &path).await?;
        let request = request
            .header("content-type", "application/octet-stream")
            .body(body);
        self.send(request).await.map(drop)
    }

    pub(crate) async fn complete_base_model(&self, model: BaseModelId) -> anyhow::Result<BaseModel> {
        self.post(
            &format!("/v1/base-models/{model}/complete"),
            &serde_json::json!({}),
        )
        .await
    }

    pub(crate) async fn upload_dataset(&self, name: &str, body: reqwest::Body) -> anyhow::Result<Dataset> {
        let request = self.request(Method::POST, "/v1/datasets").await?;
        let request = request
            .query(&[("name", name)])
            .header("content-type", "application/jsonl")
            .body(body);
        self.json(request).await
    }

    pub(crate) async fn dataset(&self, id: DatasetId) -> anyhow::Result<Dataset> {
        self.get(&format!("/v1/datasets/{id}")).await
    }

    /// A dataset by id, `name` (its newest) or `name@number`.
    pub(crate) async fn find_dataset(&self, reference: &str) -> anyhow::Result<Dataset> {
        if let Ok(id) = reference.parse() {
            return self.dataset(id).await;
        }
        let mut page = PageQuery {
            after: None,
            limit: Some(100),
        };
        loop {
            let list: List<Dataset> = self.list("/v1/datasets", &page).await?;
            if let Some(found) = list
                .data
                .iter()
                .find(|set| set.reference == reference || set.name == reference)
            {
                return self.dataset(found.id).await;
            }
            if !list.has_more {
                bail!(
                    "there is no dataset `{reference}`; `tunesmith datasets list` shows those that there are"
                );
            }
            page.after = list.last_id;
        }
    }

    pub(crate) async fn create_job(&self, request: &CreateJobRequest) -> anyhow::Result<Job> {
        self.post("/v1/jobs", request).await
    }

    pub(crate) async fn job(&self, job: &str) -> anyhow::Result<Job> {
        self.get(&format!("/v1/jobs/{}", segment(job)?)).await
    }

    pub(crate) async fn cancel_job(&self, job: &str) -> anyhow::Result<Job> {
        self.post(
            &format!("/v1/jobs/{}/cancel", segment(job)?),
            &serde_json::json!({}),
        )
        .await
    }

    pub(crate) async fn job_events(&self, job: &str, page: &PageQuery) -> anyhow::Result<List<JobEvent>> {
        self.list(&format!("/v1/jobs/{}/events", segment(job)?), page)
            .await
    }

    /// Metrics of the steps behind `after_step`.
    pub(crate) async fn job_metrics(
        &self,
        job: JobId,
        after_step: Option<i64>,
    ) -> anyhow::Result<JobMetrics> {
        #[derive(Serialize)]
        struct Query {
            #[serde(skip_serializing_if = "Option::is_none")]
            after_step: Option<i64>,
            limit: u32,
        }
        self.get_with(
            &format!("/v1/jobs/{job}/metrics"),
            &Query {
                after_step,
                limit: 10_000,
            },
        )
        .await
    }

    pub(crate) async fn adapter_version(
        &self,
        name: &str,
        version: &VersionReference,
    ) -> anyhow::Result<AdapterVersion> {
        self.get(&format!("/v1/adapters/{}/versions/{version}", segment(name)?))
            .await
    }

    /// The tar archive of a version's PEFT folder, written to `file`.
    pub(crate) async fn download_adapter(&self, name: &str, number: i32, file: &Path) -> anyhow::Result<()> {
        let path = format!("/v1/adapters/{}/versions/{number}/download", segment(name)?);
        let response = self.send(self.request(Method::GET, &path).await?).await?;
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        let mut reader = tokio_util::io::StreamReader::new(Box::pin(bytes));
        let mut writer = tokio::fs::File::create(file)
            .await
            .with_context(|| format!("cannot create {}", file.display()))?;
        tokio::io::copy(&mut reader, &mut writer)
            .await
            .context("the download broke off")?;
        writer
            .sync_all()
            .await
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) async fn deployment(&self, name: &str) -> anyhow::Result<Deployment> {
        self.get(&format!("/v1/deployments/{}", segment(name)?)).await
    }

    pub(crate) async fn create_deployment(
        &self,
        request: &CreateDeploymentRequest,
    ) -> anyhow::Result<Deployment> {
        self.post("/v1/deployments", request).await
    }

    pub(crate) async fn promote(
        &self,
        deployment: &str,
        request: &PromoteRequest,
    ) -> anyhow::Result<Deployment> {
        self.post(
            &format!("/v1/deployments/{}/promote", segment(deployment)?),
            request,
        )
        .await
    }
}

/// A name or id as one segment of a path. Ours need no escaping; what would is none of ours.
pub(super) fn segment(text: &str) -> anyhow::Result<&str> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if text.is_empty() || !plain || text.starts_with('.') {
        bail!("`{text}` is no name and no id; names are made of a-z, 0-9, '.', '_' and '-'");
    }
    Ok(text)
}
