//! One replica, spoken to in vLLM's protocol. `tunesmith-engine` and vLLM answer alike, but for the shape of errors.

use std::{collections::HashMap, path::Path, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::upstream_error::UpstreamError;

/// What went wrong between us and a replica.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// No connection, a broken one, or silence.
    #[error("the replica at {url} does not answer")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// An answer with an error status.
    #[error("the replica at {url} answered {}: {}", .error.status, .error.message)]
    Refused { url: String, error: UpstreamError },
}

impl ReplicaError {
    /// Whether the same request can never succeed: the replica has read the files and will not have them.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Unreachable { .. } => false,
            Self::Refused { error, .. } => error.is_about_the_adapter(),
        }
    }
}

/// A line of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ModelCard {
    /// Name that requests use.
    pub(crate) id: String,
    /// Folder, for an adapter.
    #[serde(default)]
    pub(crate) root: Option<String>,
    /// The base model, for an adapter; absent for the base model itself.
    #[serde(default)]
    pub(crate) parent: Option<String>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelCard>,
}

/// Greedy tokens and their log-probabilities, by which two models are told apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fingerprint {
    pub(crate) tokens: Vec<String>,
    pub(crate) logprobs: Vec<f64>,
}

/// A client of one replica.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaClient {
    http: reqwest::Client,
    url: String,
    timeout: Duration,
}

impl ReplicaClient {
    pub(crate) fn new(http: reqwest::Client, url: &str, timeout: Duration) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { http, url, timeout }
    }

    /// `GET /v1/models`, by id.
    pub(crate) async fn models(&self) -> Result<HashMap<String, ModelCard>, ReplicaError> {
        let request = self
            .http
            .get(format!("{}/v1/models", self.url))
            .timeout(Duration::from_secs(10));
        let list: ModelList = self
            .send(request)
            .await?
            .json()
            .await
            .map_err(|e| self.unreachable(e))?;
        Ok(list
            .data
            .into_iter()
            .map(|card| (card.id.clone(), card))
            .collect())
    }

    /// Loads the adapter at `path`, which the replica opens itself, under `name`.
    pub(crate) async fn load(&self, name: &str, path: &Path) -> Result<(), ReplicaError> {
        let body = json!({"lora_name": name, "lora_path": path});
        self.post("/v1/load_lora_adapter", &body).await.map(drop)
    }

    /// Forgets an adapter.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), ReplicaError> {
        self.post("/v1/unload_lora_adapter", &json!({"lora_name": name}))
            .await
            .map(drop)
    }

    /// Greedy completion of `prompt` with log-probabilities.
    pub(crate) async fn fingerprint(&self, model: &str, prompt: &str) -> Result<Fingerprint, ReplicaError> {
        let body =
            json!({"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 1});
        let answer = self.post("/v1/completions", &body).await?;
        let answer: Value = answer.json().await.map_err(|e| self.unreachable(e))?;
        let logprobs = &answer["choices"][0]["logprobs"];
        let tokens = logprobs["tokens"].as_array().cloned().unwrap_or_default();
        let values = logprobs["token_logprobs"].as_array().cloned().unwrap_or_default();
        Ok(Fingerprint {
            tokens: tokens
                .iter()
                .map(|token| token.as_str().unwrap_or_default().to_owned())
                .collect(),
            logprobs: values
                .iter()
                .map(|value| value.as_f64().unwrap_or(f64::NAN))
                .collect(),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<reqwest::Response, ReplicaError> {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .json(body)
            .timeout(self.timeout);
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ReplicaError> {
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let error = UpstreamError::read(response).await;
        Err(ReplicaError::Refused {
            url: self.url.clone(),
            error,
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> ReplicaError {
        ReplicaError::Unreachable {
            url: self.url.clone(),
            source,
        }
    }
}
