//! Training jobs.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use tunesmith_types::api::jobs::{
    Checkpoint, CreateJobRequest, Job, JobEvent, JobMetrics, ListJobsQuery, MetricsQuery,
};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::JobId;
use tunesmith_types::list::{List, PageQuery};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::app::jobs;
use crate::app::metrics_stream::{self, MetricsEvent};
use crate::error::ApiError;
use crate::extract::{Json, Named, PathId, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_json;
use crate::state::ApiState;

/// A comment is sent so often, so that nobody between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Named for JobId {
    const KIND: &'static str = jobs::KIND;
}

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_job).layer(from_fn(keyed_json)))
        .routes(routes!(list_jobs))
        .routes(routes!(get_job))
        .routes(routes!(cancel_job))
        .routes(routes!(list_job_events))
        .routes(routes!(list_job_metrics))
        .routes(routes!(list_job_checkpoints))
}

/// Start a training job
///
/// Decides every hyperparameter, states it in the answer, and queues the job.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", request_body = CreateJobRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key makes one job")),
    responses(
        (status = 201, description = "The job, queued", body = Job),
        (status = 400, description = "A field breaks its rule, or the dataset has errors", body = ErrorBody),
        (status = 404, description = "No such base model or dataset", body = ErrorBody),
        (status = 409, description = "The dataset is still being validated", body = ErrorBody),
        (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
    )
)]
async fn create_job(
    State(state): State<ApiState>,
    Member(caller): Member,
    Json(request): Json<CreateJobRequest>,
) -> Result<(StatusCode, axum::Json<Job>), ApiError> {
    let job = jobs::create(&state, &caller, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(job)))
}

/// List training jobs
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(ListJobsQuery),
    responses((status = 200, description = "The jobs, newest first", body = List<Job>))
)]
async fn list_jobs(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<ListJobsQuery>,
) -> Result<axum::Json<List<Job>>, ApiError> {
    Ok(axum::Json(jobs::list(&state, &caller.0, &query).await?))
}

/// Get a training job
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The job with its progress", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn get_job(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
) -> Result<axum::Json<Job>, ApiError> {
    Ok(axum::Json(jobs::get(&state, &caller.0, id).await?))
}

/// Cancel a training job
///
/// A queued job is cancelled at once, a running one after its present step.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "Cancelled, or asked to stop", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "The job has ended already", body = ErrorBody),
    )
)]
async fn cancel_job(
    State(state): State<ApiState>,
    Member(caller): Member,
    PathId(id): PathId<JobId>,
) -> Result<axum::Json<Job>, ApiError> {
    Ok(axum::Json(jobs::cancel(&state, &caller, id).await?))
}

/// List the events of a training job
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), PageQuery),
    responses(
        (status = 200, description = "The events, newest first", body = List<JobEvent>),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn list_job_events(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<JobEvent>>, ApiError> {
    Ok(axum::Json(
        jobs::list_events(&state, &caller.0, id, &query).await?,
    ))
}

/// Get the metrics of a training job
///
/// With `Accept: text/event-stream` the answer goes on while the job runs: events `metric` with the step as id, and at
/// the job's end one event `end` with the job. `Last-Event-ID` resumes behind that step.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/metrics", tag = "jobs",
    params(
        ("id" = JobId, Path, description = "The job"),
        MetricsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Resume a stream behind this step"),
    ),
    responses(
        (status = 200, description = "The steps, oldest first", content(
            (JobMetrics = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn list_job_metrics(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
    Query(query): Query<MetricsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !wants_stream(&headers) {
        return Ok(axum::Json(jobs::list_metrics(&state, &caller.0, id, &query).await?).into_response());
    }
    let after = match headers.get("last-event-id") {
        None => query.after_step,
        Some(value) => {
            let step = value.to_str().ok().and_then(|text| text.parse().ok());
            let step = step.ok_or_else(|| {
                ApiError::parameter(
                    "Last-Event-ID",
                    "`Last-Event-ID` must be the id of an earlier event: a step.",
                )
            })?;
            Some(step)
        }
    };
    let events = metrics_stream::follow(&state, &caller.0, id, after).await?;
    Ok(Sse::new(events_of(events))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.trim().starts_with("text/event-stream"))
}

fn events_of(
    events: impl Stream<Item = Result<MetricsEvent, ApiError>> + Send,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    events.map(|event| {
        let event = match event {
            Ok(MetricsEvent::Metric(metric)) => Event::default()
                .event("metric")
                .id(metric.step.to_string())
                .json_data(&metric),
            Ok(MetricsEvent::End(job)) => Event::default().event("end").json_data(&job),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a metrics stream failed"
                );
                Event::default().event("error").json_data(error.body())
            }
        };
        Ok(event.expect("invariant: our bodies have string keys and serialise"))
    })
}

/// List the checkpoints of a training job
#[utoipa::path(
    get, path = "/v1/jobs/{id}/checkpoints", tag = "jobs", params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The checkpoints that are kept, the one to resume from first", body = List<Checkpoint>),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn list_job_checkpoints(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
) -> Result<axum::Json<List<Checkpoint>>, ApiError> {
    Ok(axum::Json(jobs::list_checkpoints(&state, &caller.0, id).await?))
}
