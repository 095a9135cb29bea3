//! One replica, spoken to in vLLM's protocol. `tunesmith-engine` and vLLM answer alike, but for the shape of errors.

use std::{collections::HashMap, path::Path, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    lora_metrics::ReplicaMetrics,
    settings::ReplicaSecret,
    upstream_error::{LoadFault, UpstreamError},
};

/// Most time for the questions that a replica answers from memory.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

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
            Self::Refused { error, .. } => error.load_fault() == LoadFault::Adapter,
        }
    }

    /// Whether the replica may only have been slow. A refused connection, or a 503 from `/health`, is no slowness.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_timeout())
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
    /// For the base model of our engine: when it started. vLLM writes the time of the answer.
    #[serde(default)]
    pub(crate) created: Option<i64>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelCard>,
}

/// A greedy continuation with its log-probabilities.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Continuation {
    /// Texts of the tokens.
    pub(crate) tokens: Vec<String>,
    /// Ids of the tokens, where the replica tells them.
    pub(crate) ids: Option<Vec<u32>>,
    /// Logarithm of each token's probability.
    pub(crate) logprobs: Vec<f64>,
    /// How much likelier each token was than the next best one, where the replica tells.
    pub(crate) leads: Vec<Option<f64>>,
}

/// A client of one replica.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaClient {
    http: reqwest::Client,
    url: String,
    api_key: Option<ReplicaSecret>,
    timeout: Duration,
}

impl ReplicaClient {
    /// `timeout` is for loads and probes.
    pub(crate) fn new(
        http: reqwest::Client,
        url: &str,
        api_key: Option<ReplicaSecret>,
        timeout: Duration,
    ) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self {
            http,
            url,
            api_key,
            timeout,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `GET /health`: 503 where the engine behind the server is dead.
    pub(crate) async fn health(&self) -> Result<(), ReplicaError> {
        self.get("/health").await.map(drop)
    }

    /// `GET /v1/models`, by id.
    pub(crate) async fn models(&self) -> Result<HashMap<String, ModelCard>, ReplicaError> {
        let answer = self.get("/v1/models").await?;
        let list: ModelList = answer.json().await.map_err(|e| self.unreachable(e))?;
        Ok(list
            .data
            .into_iter()
            .map(|card| (card.id.clone(), card))
            .collect())
    }

    /// `GET /metrics`, as far as it is about adapters.
    pub(crate) async fn metrics(&self) -> Result<ReplicaMetrics, ReplicaError> {
        let text = self.get("/metrics").await?.text().await;
        Ok(ReplicaMetrics::parse(&text.map_err(|e| self.unreachable(e))?))
    }

    /// Loads the adapter at `path`, which the replica opens itself, under `name`. Never in place of another one: a
    /// replica may go on using what it remembers of the old bytes.
    pub(crate) async fn load(&self, name: &str, path: &Path) -> Result<(), ReplicaError> {
        let body = json!({"lora_name": name, "lora_path": path});
        self.post("/v1/load_lora_adapter", &body).await.map(drop)
    }

    /// Forgets an adapter. One that is not there is forgotten already.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), ReplicaError> {
        match self
            .post("/v1/unload_lora_adapter", &json!({"lora_name": name}))
            .await
        {
            Err(ReplicaError::Refused { error, .. }) if error.is_not_loaded() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The `max_tokens` likeliest tokens after `prompt`, a text or token ids.
    pub(crate) async fn continuation(
        &self,
        model: &str,
        prompt: &Value,
        max_tokens: usize,
    ) -> Result<Continuation, ReplicaError> {
        // Two alternatives show how near the second best token is. Ids are given by newer vLLM; others ignore the wish.
        // What is left out vLLM takes from the model's generation_config.json: a penalty there would pick other tokens.
        let body = json!({
            "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 2,
            "ignore_eos": true, "return_token_ids": true,
            "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
        });
        let answer = self.post("/v1/completions", &body).await?;
        let answer: Value = answer.json().await.map_err(|e| self.unreachable(e))?;
        Ok(read_continuation(&answer["choices"][0]))
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, ReplicaError> {
        let request = self
            .http
            .get(format!("{}{path}", self.url))
            .timeout(QUESTION_TIMEOUT.min(self.timeout));
        self.send(request).await
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
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key.as_str()),
            None => request,
        };
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

fn read_continuation(choice: &Value) -> Continuation {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let logprobs = &choice["logprobs"];
    let values: Vec<f64> = list(&logprobs["token_logprobs"])
        .iter()
        .map(|value| value.as_f64().unwrap_or(f64::NAN))
        .collect();
    let tops = list(&logprobs["top_logprobs"]);
    let leads = values
        .iter()
        .enumerate()
        .map(|(place, value)| {
            let alternatives = tops.get(place)?.as_object()?;
            let mut others: Vec<f64> = alternatives.values().filter_map(Value::as_f64).collect();
            others.sort_by(|a, b| b.total_cmp(a));
            Some(value - others.get(1)?)
        })
        .collect();
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Continuation {
        tokens: list(&logprobs["tokens"])
            .iter()
            .map(|token| token.as_str().unwrap_or_default().to_owned())
            .collect(),
        ids: choice["token_ids"]
            .as_array()
            .and_then(|ids| ids.iter().map(id).collect()),
        logprobs: values,
        leads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continuation_knows_how_near_the_second_best_token_was() {
        let choice = json!({"token_ids": [5, 6], "logprobs": {
            "tokens": ["a", "b"], "token_logprobs": [-0.5, -0.7],
            "top_logprobs": [{"a": -0.5, "c": -2.5}, {"b": -0.7}],
        }});
        let read = read_continuation(&choice);
        assert_eq!(read.ids, Some(vec![5, 6]));
        assert_eq!(read.leads, [Some(2.0), None]);
        let bare = read_continuation(&json!({"logprobs": {"tokens": ["a"], "token_logprobs": [null]}}));
        assert!(bare.ids.is_none() && bare.logprobs[0].is_nan() && bare.leads == [None]);
        assert_eq!(read_continuation(&json!({})), Continuation::default());
    }
}
