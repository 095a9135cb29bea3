//! The inference endpoints. They expect a [`Principal`] among the request's extensions, put there by the API's
//! authentication layer.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use serde_json::Value;
use tokio::sync::Notify;
use tunesmith_blobs::Blobs;
use tunesmith_store::Store;
use tunesmith_types::{error::ErrorBody, ids::OrganizationId, principal::Principal};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    GatewayError, GatewaySettings, Reconciler, ReplicaSource,
    catalogue::Catalogue,
    companions::Companions,
    fleet::Fleet,
    metering::Meter,
    models::{Model, ModelList},
    proxy::{self, SESSION_HEADER},
    reconcile_base::Context,
    request::{Endpoint, ModelRequest},
    shadow::{self, Mirrors},
};

/// Largest body of an inference request, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How long a connection to a replica is kept without requests. vLLM closes them after five seconds, and a request that
/// crosses the closing is lost: just as often as replicas are looked at.
const IDLE_CONNECTION: Duration = Duration::from_secs(3);

/// State of the inference endpoints.
#[derive(Debug, Clone)]
pub struct Gateway {
    pub(crate) catalogue: Catalogue,
    pub(crate) fleet: Fleet,
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) http: reqwest::Client,
    pub(crate) meter: Meter,
    pub(crate) mirrors: Mirrors,
}

impl Gateway {
    /// The gateway, and the reconciler that must run beside it.
    ///
    /// # Errors
    /// The HTTP client cannot be made (no TLS roots, say).
    pub fn new(
        store: Store,
        blobs: Blobs,
        source: ReplicaSource,
        settings: GatewaySettings,
    ) -> Result<(Self, Reconciler), reqwest::Error> {
        let wake = Arc::new(Notify::new());
        source.set_wake(&wake);
        let http = http_client(settings.read_timeout)?;
        let (mirrors, mirror_queue) = shadow::queue();
        let gateway = Self {
            catalogue: Catalogue::new(store.clone()),
            fleet: Fleet::new(Arc::clone(&wake)),
            settings: Arc::new(settings),
            http,
            meter: Meter::default(),
            mirrors,
        };
        let companions = Companions {
            store,
            meter: gateway.meter.clone(),
            mirrors: mirror_queue,
            fleet: gateway.fleet.clone(),
            http: gateway.http.clone(),
            canary_every: gateway.settings.canary_every,
        };
        let context = Context {
            catalogue: gateway.catalogue.clone(),
            blobs,
            fleet: gateway.fleet.clone(),
            source: Arc::new(source),
            settings: Arc::clone(&gateway.settings),
            http: gateway.http.clone(),
        };
        Ok((gateway, Reconciler::new(context, companions, wake)))
    }
}

/// The client of all replicas.
fn http_client(read_timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .read_timeout(read_timeout)
        .pool_idle_timeout(IDLE_CONNECTION)
        .build()
}

/// The routes, for the API to put behind its authentication.
pub fn router(gateway: Gateway) -> OpenApiRouter {
    operations()
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(gateway)
}

/// The document of the routes, for the API to put into its own.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    operations().into_openapi()
}

fn operations() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(create_chat_completion))
        .routes(routes!(create_completion))
        .routes(routes!(list_models))
        .routes(routes!(get_model))
}

/// Answer a conversation
///
/// OpenAI's chat completions. `model` is the name of a deployment or of a base model. With `"stream": true` the answer
/// comes as server-sent events. `tools`, `tool_choice` and `parallel_tool_calls` offer functions; the answer then may
/// have `tool_calls`, and a message of the role `tool` with their `tool_call_id` answers each. The header
/// `x-tunesmith-version` names the adapter version that answered. Where a deployment splits its requests, those with
/// the same header `x-tunesmith-session`, else with the same `user`, stay on the same version. `POST /v1/feedback`
/// takes a score for the answer, by its `id`.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "inference", request_body = Value,
    responses(
        (status = 200, description = "A completion, or a stream of chunks", body = Value,
         headers(("x-tunesmith-version" = String, description = "`<adapter>@<number>`, or `base`"),
                 ("x-tunesmith-revision" = i32, description = "The deployment's revision that chose it"))),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 401, description = "No valid credentials", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 429, description = "The model is full; see retry-after", body = ErrorBody),
        (status = 503, description = "The model is being made ready; see retry-after", body = ErrorBody),
    )
)]
async fn create_chat_completion(
    State(gateway): State<Gateway>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Response, GatewayError> {
    complete(
        &gateway,
        principal.organization_id,
        Endpoint::Chat,
        &headers,
        body,
    )
    .await
}

/// Continue a text
///
/// OpenAI's older completions, without a chat template.
#[utoipa::path(
    post, path = "/v1/completions", tag = "inference", request_body = Value,
    responses(
        (status = 200, description = "A completion, or a stream of chunks", body = Value,
         headers(("x-tunesmith-version" = String, description = "`<adapter>@<number>`, or `base`"),
                 ("x-tunesmith-revision" = i32, description = "The deployment's revision that chose it"))),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 401, description = "No valid credentials", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 429, description = "The model is full; see retry-after", body = ErrorBody),
        (status = 503, description = "The model is being made ready; see retry-after", body = ErrorBody),
    )
)]
async fn create_completion(
    State(gateway): State<Gateway>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Response, GatewayError> {
    complete(
        &gateway,
        principal.organization_id,
        Endpoint::Completion,
        &headers,
        body,
    )
    .await
}

async fn complete(
    gateway: &Gateway,
    organization: OrganizationId,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Response, GatewayError> {
    let Json(body) = body.map_err(|rejection| GatewayError::unreadable(&rejection, MAX_BODY))?;
    let session = headers.get(SESSION_HEADER).map(HeaderValue::as_bytes);
    let request = ModelRequest::parse(endpoint, body)?;
    proxy::forward(gateway, organization, request, session).await
}

/// List the models that can be called
///
/// Deployments with an active version, and base models.
#[utoipa::path(
    get, path = "/v1/models", tag = "inference",
    responses(
        (status = 200, description = "All models", body = ModelList),
        (status = 401, description = "No valid credentials", body = ErrorBody),
    )
)]
async fn list_models(
    State(gateway): State<Gateway>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<ModelList>, GatewayError> {
    let data = gateway
        .catalogue
        .models(principal.organization_id)
        .await
        .map_err(GatewayError::Store)?;
    Ok(Json(ModelList {
        object: "list".to_owned(),
        data,
    }))
}

/// Show a model that can be called
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "inference",
    params(("model" = String, Path, description = "Name of a deployment or base model")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 401, description = "No valid credentials", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
async fn get_model(
    State(gateway): State<Gateway>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Json<Model>, GatewayError> {
    let models = gateway
        .catalogue
        .models(principal.organization_id)
        .await
        .map_err(GatewayError::Store)?;
    models
        .into_iter()
        .find(|model| model.id == name)
        .map(Json)
        .ok_or(GatewayError::ModelNotFound(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_replica_may_be_closing_is_not_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.unwrap() > 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        let client = http_client(Duration::from_secs(5)).unwrap();
        for (pause, expected) in [(0, 1), (100, 1), (3_100, 2)] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            client.get(&url).send().await.unwrap();
            assert_eq!(connections.load(Ordering::Relaxed), expected);
        }
    }
}
