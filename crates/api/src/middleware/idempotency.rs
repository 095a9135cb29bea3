//! `Idempotency-Key`: a request that makes something may be sent again, and makes it once.
//!
//! The first request's answer is kept with the key and given again. A refused request frees its key. Uploads are
//! compared by the sha256 of their bytes, which the kept answer holds. The state comes as an extension, so that routers
//! can be made, and the API's document with them, before there is a state.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tracing::Instrument;
use tunesmith_store::idempotency::{self, Admission, KeyedRequest};
use tunesmith_types::ids::OrganizationId;
use tunesmith_types::principal::Principal;

use crate::error::ApiError;
use crate::extract::read_limited;
use crate::state::ApiState;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const LONGEST_KEY: usize = 255;

/// For requests with a JSON body.
///
/// # Errors
/// The key is malformed, was used for another request, or its first request is being answered.
pub async fn keyed_json(
    Extension(state): Extension<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let body = read_limited(body).await?;
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let claim = Claim::new(&state, &parts.extensions, key, operation(&parts), digest)?;
    match claim.begin().await? {
        Admission::First => {
            claim
                .answer_whatever_comes(Request::from_parts(parts, Body::from(body)), next)
                .await
        }
        Admission::InFlight => Err(ApiError::InFlight),
        Admission::Mismatch => Err(ApiError::IdempotencyMismatch),
        Admission::Answered { status, body } => Ok(replay(status, body)),
    }
}

/// For requests whose answer holds a secret, which is not kept: the second request is told that the first succeeded.
///
/// # Errors
/// As [`keyed_json`], and where the key was used before.
pub async fn keyed_secret(
    state: Extension<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keyed = request.headers().contains_key(&KEY);
    let mut request = request;
    request.extensions_mut().insert(AnswerIsSecret);
    let response = keyed_json(state, request, next).await?;
    if keyed && response.headers().contains_key(&REPLAYED) {
        let message = "This Idempotency-Key has made an API key already. Its secret was shown once; list the keys, and revoke it where the secret is lost.";
        return Err(ApiError::conflict("secret_shown_once", message));
    }
    Ok(response)
}

#[derive(Clone, Copy)]
struct AnswerIsSecret;

/// For uploads, whose bytes are too many to be read before they are stored.
///
/// # Errors
/// As [`keyed_json`].
pub async fn keyed_upload(
    Extension(state): Extension<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let query: [u8; 32] = Sha256::digest(parts.uri.query().unwrap_or_default()).into();
    let claim = Claim::new(&state, &parts.extensions, key, operation(&parts), query)?;
    match claim.begin().await? {
        Admission::First => {
            claim
                .answer(next.run(Request::from_parts(parts, body)).await)
                .await
        }
        Admission::InFlight => Err(ApiError::InFlight),
        Admission::Mismatch => Err(ApiError::IdempotencyMismatch),
        Admission::Answered { status, body: answer } => {
            if !same_bytes(&answer, body).await? {
                return Err(ApiError::IdempotencyMismatch);
            }
            Ok(replay(status, answer))
        }
    }
}

#[derive(serde::Deserialize)]
struct KeptUpload {
    sha256: String,
}

async fn same_bytes(answer: &[u8], body: Body) -> Result<bool, ApiError> {
    let kept: KeptUpload =
        serde_json::from_slice(answer).map_err(|_| ApiError::Unexpected("a kept answer is damaged"))?;
    let pieces = crate::app::datasets::impatient(body);
    let hashed = pieces
        .try_fold(Sha256::new(), |hash, piece: Bytes| async move {
            Ok(hash.chain_update(piece))
        })
        .await;
    let hash = hashed.map_err(|_| ApiError::Invalid {
        code: "body_incomplete",
        param: None,
        message: "The body broke off before its end.".to_owned(),
    })?;
    Ok(hex::encode(hash.finalize()) == kept.sha256)
}

fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(&KEY) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let sane = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if sane {
        return Ok(Some(text.to_owned()));
    }
    let message = format!("`Idempotency-Key` must have 1 to {LONGEST_KEY} visible ASCII characters.");
    Err(ApiError::parameter("Idempotency-Key", message))
}

fn operation(parts: &axum::http::request::Parts) -> String {
    format!("{} {}", parts.method, parts.uri.path())
}

fn replay(status: u16, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    (status, headers, body).into_response()
}

/// A key that this request holds until it is answered.
struct Claim {
    state: ApiState,
    organization: OrganizationId,
    key: String,
    operation: String,
    digest: [u8; 32],
    answer_is_secret: bool,
}

impl Claim {
    fn new(
        state: &ApiState,
        extensions: &axum::http::Extensions,
        key: String,
        operation: String,
        digest: [u8; 32],
    ) -> Result<Self, ApiError> {
        let principal = extensions
            .get::<Principal>()
            .ok_or(ApiError::Unexpected("no caller"))?;
        Ok(Self {
            state: state.clone(),
            organization: principal.organization_id,
            key,
            operation,
            digest,
            answer_is_secret: extensions.get::<AnswerIsSecret>().is_some(),
        })
    }

    async fn begin(&self) -> Result<Admission, ApiError> {
        let request = KeyedRequest {
            key: &self.key,
            operation: &self.operation,
            request_sha256: &self.digest,
        };
        Ok(idempotency::begin(&self.state.store, self.organization, &request).await?)
    }

    /// Runs the request to its end, also where the caller does not wait for it: else its effect could be without a
    /// kept answer.
    async fn answer_whatever_comes(self, request: Request, next: Next) -> Result<Response, ApiError> {
        let work = async move { self.answer(next.run(request).await).await };
        let ended = tokio::spawn(work.instrument(tracing::Span::current())).await;
        ended.map_err(|_| ApiError::Unexpected("a keyed request panicked"))?
    }

    /// Keeps a success, frees the key after anything else.
    async fn answer(&self, response: Response) -> Result<Response, ApiError> {
        if !response.status().is_success() {
            idempotency::abandon(&self.state.store, self.organization, &self.key).await?;
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let collected = body
            .collect()
            .await
            .map_err(|_| ApiError::Unexpected("an answer broke off"))?;
        let body = collected.to_bytes();
        let kept: &[u8] = if self.answer_is_secret { b"{}" } else { &body };
        let status = parts.status.as_u16();
        idempotency::finish(&self.state.store, self.organization, &self.key, status, kept).await?;
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}
