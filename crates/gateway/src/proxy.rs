//! One request, from the caller to a replica and back.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tunesmith_types::ids::OrganizationId;

use crate::{
    Gateway, GatewayError,
    fleet::{Lease, Unavailable},
    request::ModelRequest,
    request_meter::RequestMeter,
    resolve::{self, Target},
    sticky::Affinity,
    stream::{self, Rewriter},
    upstream_error::UpstreamError,
};

/// Names the version that answered.
pub(crate) const VERSION_HEADER: &str = "x-tunesmith-version";
/// Number of the deployment's revision that chose the version.
pub(crate) const REVISION_HEADER: &str = "x-tunesmith-revision";
/// A caller's name for a conversation, which stays on its version.
pub(crate) const SESSION_HEADER: &str = "x-tunesmith-session";
/// A replica that has forgotten a version, or is gone, is tried this often: it may be loading it again.
const TRIES: usize = 2;

/// Forwards `request` and relays the answer. `session` is the caller's name for the conversation.
///
/// # Errors
/// No such model, no replica in time, or the replica refuses or fails.
pub(crate) async fn forward(
    gateway: &Gateway,
    organization: OrganizationId,
    request: ModelRequest,
    session: Option<&[u8]>,
) -> Result<Response, GatewayError> {
    let user = request.field("user").and_then(Value::as_str);
    let affinity = Affinity::new(session, user);
    let meter = (gateway.meter.clone(), gateway.mirrors.clone());
    let mut meter = RequestMeter::new(meter.0, meter.1, organization, &request);
    let connected = connect(gateway, organization, &affinity, &request, &mut meter).await;
    let (target, lease, upstream) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            meter.failed(&error);
            return Err(error);
        }
    };
    meter.accepted(&request);
    let rewriter = Rewriter::new(&lease.internal, &request.model, meter, asks_for_usage(&request));
    let mut response = if request.stream {
        streamed(upstream, rewriter, lease)
    } else {
        whole(upstream, rewriter).await?
    };
    let headers = response.headers_mut();
    let label =
        HeaderValue::from_str(&target.arm.label).expect("invariant: names and numbers are visible ASCII");
    headers.insert(VERSION_HEADER, label);
    if let Some(snapshot) = &target.snapshot {
        headers.insert(
            HeaderName::from_static(REVISION_HEADER),
            HeaderValue::from(snapshot.revision),
        );
    }
    Ok(response)
}

fn asks_for_usage(request: &ModelRequest) -> bool {
    request
        .field("stream_options")
        .is_some_and(|options| options["include_usage"] == true)
}

/// The body for a replica. It is always asked for the usage of a stream, because that is what is metered.
fn body(request: &ModelRequest, internal: &str) -> Value {
    let mut body = request.body(internal);
    if request.stream {
        let options = &mut body["stream_options"];
        if !options.is_object() {
            *options = json!({});
        }
        options["include_usage"] = json!(true);
    }
    body
}

/// A version, a replica that holds it, and the replica's successful answer, its body unread. Nothing of an answer is
/// seen before this returns, so the caller gets one version's answer, whatever was tried.
async fn connect(
    gateway: &Gateway,
    organization: OrganizationId,
    affinity: &Affinity,
    request: &ModelRequest,
    meter: &mut RequestMeter,
) -> Result<(Target, Lease, reqwest::Response), GatewayError> {
    let deadline = Instant::now() + gateway.settings.start_wait;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let (target, lease) = lease(gateway, organization, affinity, request, deadline, meter).await?;
        let url = format!("{}{}", lease.url, request.endpoint.path());
        let answer = lease
            .authorize(gateway.http.post(url))
            .json(&body(request, &lease.internal))
            .send()
            .await;
        let answer = match answer {
            Ok(answer) if answer.status().is_success() => return Ok((target, lease, answer)),
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
                let adapter = target.arm.adapter.as_deref();
                gateway.fleet.doubt(target.base, &lease.url, adapter);
                GatewayError::Starting(request.model.clone())
            }
            Ok(answer) => {
                let error = UpstreamError::read(answer).await;
                let is_engine_dead = error.is_engine_dead();
                let error = GatewayError::from_upstream(error, &lease.internal, &request.model);
                if !is_engine_dead {
                    return Err(error);
                }
                // It answers faster than those that work, and would be given all requests until it is looked at.
                gateway.fleet.doubt(target.base, &lease.url, None);
                error
            }
        };
        if tries == 0 {
            return Err(error);
        }
    }
}

/// A version and a replica that holds it. While none does, a change of the deployment chooses anew: who waits for a
/// version that was rolled back gets the one that answers now.
async fn lease(
    gateway: &Gateway,
    organization: OrganizationId,
    affinity: &Affinity,
    request: &ModelRequest,
    deadline: Instant,
    meter: &mut RequestMeter,
) -> Result<(Target, Lease), GatewayError> {
    let mut changes = gateway.catalogue.changes();
    loop {
        changes.mark_unchanged();
        let target = resolve::resolve(&gateway.catalogue, organization, &request.model, affinity).await?;
        meter.route(&target);
        let patience = deadline.saturating_duration_since(Instant::now());
        let adapter = target.arm.adapter.as_deref();
        tokio::select! {
            biased;
            lease = gateway.fleet.acquire(target.base, adapter, patience) => {
                let lease = lease.map_err(|reason| unavailable(&request.model, reason))?;
                return Ok((target, lease));
            }
            Ok(()) = changes.changed() => {}
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

async fn whole(upstream: reqwest::Response, mut rewriter: Rewriter) -> Result<Response, GatewayError> {
    match upstream.json().await {
        Ok(mut value) => {
            rewriter.whole(&mut value);
            Ok(axum::Json(value).into_response())
        }
        Err(error) => {
            let error = GatewayError::Upstream {
                status: 0,
                message: error.to_string(),
            };
            rewriter.meter.failed(&error);
            Err(error)
        }
    }
}
