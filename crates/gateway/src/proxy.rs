//! One request, from the caller to a replica and back.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tunesmith_types::ids::OrganizationId;

use crate::{
    Gateway, GatewayError,
    fleet::{Lease, Unavailable},
    request::ModelRequest,
    resolve::{self, Target},
    stream::{self, Rewriter},
    upstream_error::UpstreamError,
};

/// Names the version that answered.
pub(crate) const VERSION_HEADER: &str = "x-tunesmith-version";
/// A replica that has forgotten a version, or is gone, is tried this often: it may be loading it again.
const TRIES: usize = 2;

/// Forwards `request` and relays the answer.
///
/// # Errors
/// No such model, no replica in time, or the replica refuses or fails.
pub(crate) async fn forward(
    gateway: &Gateway,
    organization: OrganizationId,
    request: ModelRequest,
) -> Result<Response, GatewayError> {
    let target = resolve::resolve(&gateway.catalogue, organization, &request.model).await?;
    let (lease, upstream) = connect(gateway, &target, &request).await?;
    let rewriter = Rewriter::new(&lease.internal, &request.model);
    let mut response = if request.stream {
        streamed(upstream, rewriter, lease)
    } else {
        whole(upstream, &rewriter).await?
    };
    let label = HeaderValue::from_str(&target.label).expect("invariant: names and numbers are visible ASCII");
    response.headers_mut().insert(VERSION_HEADER, label);
    Ok(response)
}

/// A replica's successful answer, its body unread.
async fn connect(
    gateway: &Gateway,
    target: &Target,
    request: &ModelRequest,
) -> Result<(Lease, reqwest::Response), GatewayError> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let adapter = target.adapter.as_deref();
        let lease = gateway
            .fleet
            .acquire(target.base, adapter, gateway.settings.start_wait)
            .await;
        let lease = lease.map_err(|reason| unavailable(&request.model, reason))?;
        let url = format!("{}{}", lease.url, request.endpoint.path());
        let answer = lease
            .authorize(gateway.http.post(url))
            .json(&request.body(&lease.internal))
            .send()
            .await;
        let answer = match answer {
            Ok(answer) if answer.status().is_success() => return Ok((lease, answer)),
            answer => answer,
        };
        let error = match answer {
            // Nothing was answered, so nothing was done that the caller knows of: the request may be sent again.
            Err(error) => {
                gateway.fleet.doubt(target.base, &lease.url, None);
                GatewayError::Upstream {
                    status: 0,
                    message: error.to_string(),
                }
            }
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                gateway.fleet.doubt(target.base, &lease.url, adapter);
                GatewayError::Starting(request.model.clone())
            }
            Ok(answer) => {
                let error = UpstreamError::read(answer).await;
                return Err(GatewayError::from_upstream(
                    error,
                    &lease.internal,
                    &request.model,
                ));
            }
        };
        if tries == 0 {
            return Err(error);
        }
    }
}

fn unavailable(model: &str, reason: Unavailable) -> GatewayError {
    match reason {
        Unavailable::Starting => GatewayError::Starting(model.to_owned()),
        Unavailable::Failed(reason) => GatewayError::NoReplica {
            model: model.to_owned(),
            reason,
        },
    }
}

fn streamed(upstream: reqwest::Response, rewriter: Rewriter, lease: Lease) -> Response {
    let body = Body::from_stream(stream::relay(upstream, rewriter, lease));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            header::HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, body).into_response()
}

async fn whole(upstream: reqwest::Response, rewriter: &Rewriter) -> Result<Response, GatewayError> {
    let failed = |error: reqwest::Error| GatewayError::Upstream {
        status: 0,
        message: error.to_string(),
    };
    let mut value: Value = upstream.json().await.map_err(failed)?;
    rewriter.value(&mut value);
    Ok(axum::Json(value).into_response())
}
