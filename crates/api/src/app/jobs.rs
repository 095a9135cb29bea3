//! Training jobs: what may be queued, and what their owners see.

use tunesmith_store::base_models::BaseModel;
use tunesmith_store::datasets::Dataset;
use tunesmith_store::jobs::{self, JobFilter, NewJob};
use tunesmith_store::{checkpoints, events, metrics};
use tunesmith_types::api::jobs as body;
use tunesmith_types::dataset::ExampleFormat;
use tunesmith_types::error::ParameterError;
use tunesmith_types::hyperparameters::{Hyperparameters, HyperparametersRequest};
use tunesmith_types::ids::JobId;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::states::{BaseModelState, DatasetState, JobState};

use super::job_decisions::reasons;
use super::job_parent::{self, JobParent};
use super::job_view::{checkpoint_view, event_view, job_view, metric_view};
use super::model_check::ModelModules;
use super::{base_models, datasets, job_targets, servability};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "training job";
/// Runs with an error after which a job fails.
const MOST_ATTEMPTS: i32 = 3;
/// Steps from which pace and time left are computed.
const PACE_STEPS: i64 = 20;
const METRICS_LIMIT: std::ops::RangeInclusive<u32> = 1..=10_000;
const METRICS_DEFAULT: u32 = 1000;
const MOST_CHECKPOINTS: u16 = 100;

/// Decides every hyperparameter and queues a job.
///
/// # Errors
/// A field breaks its rule, or names what the organization cannot see or cannot train on.
pub async fn create(
    state: &ApiState,
    caller: &Principal,
    request: &body::CreateJobRequest,
) -> Result<body::Job, ApiError> {
    let organization = caller.organization_id;
    let adapter = ResourceName::parse("adapter", &request.adapter)?;
    let model = base_models::lookup(state, organization, &request.base_model).await;
    let model = model.or_unknown(base_models::KIND, "base_model", &request.base_model)?;
    let dataset = datasets::resolve(state, organization, &request.dataset).await?;
    let parent = match &request.parent_version {
        Some(reference) => Some(job_parent::find(state, organization, &model, reference).await?),
        None => None,
    };
    let hyperparameters = decide(&request.hyperparameters, parent.as_ref(), &model)
        .map_err(|error| error.under("hyperparameters"))?;
    check_inputs(&model, &dataset)?;
    servability::require_of_job(state, &model, &hyperparameters).await?;
    let new = NewJob {
        adapter: &adapter,
        base_model_id: model.id,
        dataset_id: dataset.id,
        parent_version_id: parent.as_ref().map(|parent| parent.version.id),
        hyperparameters: &hyperparameters,
        max_attempts: MOST_ATTEMPTS,
        created_by: caller.user_id,
    };
    let job = jobs::create(&state.store, organization, &new).await?;
    tracing::info!(job = %job.id, %adapter, "job queued");
    let mut view = job_view(job, &[]);
    let parent = parent.map(|parent| parent.reference());
    view.decided = Some(reasons(
        &request.hyperparameters,
        longest(&model),
        parent.as_deref(),
    ));
    Ok(view)
}

/// Every value decided, and fit for the model: those that are bound to the parent's tensors are the parent's.
fn decide(
    asked: &HyperparametersRequest,
    parent: Option<&JobParent>,
    model: &BaseModel,
) -> Result<Hyperparameters, ParameterError> {
    let hyperparameters = match parent {
        Some(parent) => asked.continuing(&parent.shape)?.resolve(longest(model))?,
        None => asked.resolve(longest(model))?,
    };
    let details = model.details.as_ref();
    if let Some(modules) = details.and_then(|details| ModelModules::read(&details.config)) {
        job_targets::check(&hyperparameters, &modules)?;
    }
    Ok(hyperparameters)
}

/// Tokens of the model's longest sequence.
fn longest(model: &BaseModel) -> Option<u32> {
    model.details.as_ref().map(|details| details.max_seq_len)
}

/// Whether the model can be trained, on this dataset.
fn check_inputs(model: &BaseModel, dataset: &Dataset) -> Result<(), ApiError> {
    let invalid = |code, param: &str, message: String| {
        Err(ApiError::Invalid {
            code,
            param: Some(param.to_owned()),
            message,
        })
    };
    match dataset.state {
        DatasetState::Valid => {}
        DatasetState::Validating => {
            let message = "The dataset is still being validated; ask again when its status is `valid`.";
            return Err(ApiError::Conflict {
                code: "dataset_not_validated",
                param: Some("dataset"),
                message: message.to_owned(),
            });
        }
        DatasetState::Invalid => {
            let message = format!(
                "The dataset `{}@{}` has errors; read them with `GET /v1/datasets/{}/report`, mend the file and upload it again.",
                dataset.name, dataset.number, dataset.id
            );
            return invalid("dataset_invalid", "dataset", message);
        }
    }
    if model.state != BaseModelState::Ready {
        let message = format!(
            "The base model `{}` is {}; only a ready one can be trained.",
            model.name, model.state
        );
        return Err(ApiError::Conflict {
            code: "base_model_not_ready",
            param: Some("base_model"),
            message,
        });
    }
    let format = datasets::stored_report(dataset)?.and_then(|report| report.format);
    let has_template = model
        .details
        .as_ref()
        .is_some_and(|details| details.template_digest.is_some());
    if format == Some(ExampleFormat::Chat) && !has_template {
        let message = format!(
            "The base model `{}` has no chat template, so it cannot be trained on conversations; use prompt and completion, or another model.",
            model.name
        );
        return invalid("no_chat_template", "base_model", message);
    }
    Ok(())
}

/// The organization's jobs.
///
/// # Errors
/// The page request or the filter is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &body::ListJobsQuery,
) -> Result<List<body::Job>, ApiError> {
    let page = query.page().parse()?;
    let wanted = query
        .status
        .as_deref()
        .map(str::parse::<JobState>)
        .transpose()
        .map_err(|_| {
            ApiError::parameter(
                "status",
                "`status` must be queued, running, succeeded, failed or cancelled.",
            )
        })?;
    let filter = JobFilter {
        state: wanted,
        adapter: None,
    };
    let rows = jobs::list(&state.store, caller.organization_id, &filter, &page).await?;
    let mut data = Vec::with_capacity(rows.rows.len());
    for job in rows.rows {
        data.push(with_pace(state, job).await?);
    }
    Ok(List::new(data, rows.has_more, |job: &body::Job| {
        job.id.to_string()
    }))
}

/// One job.
///
/// # Errors
/// The organization has no such job.
pub async fn get(state: &ApiState, caller: &Principal, id: JobId) -> Result<body::Job, ApiError> {
    with_pace(state, find(state, caller, id).await?).await
}

async fn with_pace(state: &ApiState, job: jobs::Job) -> Result<body::Job, ApiError> {
    let recent = match job.step {
        0 => Vec::new(),
        step => {
            let after = (step > PACE_STEPS).then_some(step - PACE_STEPS);
            metrics::list(
                &state.store,
                job.organization_id,
                job.id,
                after,
                PACE_STEPS.unsigned_abs() as u32,
            )
            .await?
        }
    };
    Ok(job_view(job, &recent))
}

/// The row of one job.
///
/// # Errors
/// The organization has no such job.
pub(super) async fn find(state: &ApiState, caller: &Principal, id: JobId) -> Result<jobs::Job, ApiError> {
    jobs::get(&state.store, caller.organization_id, id)
        .await
        .or_not_found(KIND, id)
}

/// Asks to cancel a job: one that waits is cancelled at once, one that runs when its worker hears of it.
///
/// # Errors
/// The organization has no such job, or it has ended.
pub async fn cancel(state: &ApiState, caller: &Principal, id: JobId) -> Result<body::Job, ApiError> {
    let job = find(state, caller, id).await?;
    if job.state.is_final() {
        let message = format!(
            "The job has ended already: it is {}. It cannot be cancelled any more.",
            job.state
        );
        return Err(ApiError::conflict("job_finished", message));
    }
    let job = jobs::request_cancel(&state.store, caller.organization_id, id)
        .await
        .or_not_found(KIND, id)?;
    with_pace(state, job).await
}

/// What happened to a job.
///
/// # Errors
/// The organization has no such job, or the page request is wrong.
pub async fn list_events(
    state: &ApiState,
    caller: &Principal,
    id: JobId,
    query: &PageQuery,
) -> Result<List<body::JobEvent>, ApiError> {
    let page = query.parse()?;
    find(state, caller, id).await?;
    let rows = events::list(&state.store, caller.organization_id, id, &page).await?;
    let data = rows.rows.into_iter().map(event_view).collect();
    Ok(List::new(data, rows.has_more, |event: &body::JobEvent| {
        event.id.to_string()
    }))
}

/// The numbers of a job's steps.
///
/// # Errors
/// The organization has no such job, or the limit is out of bounds.
pub async fn list_metrics(
    state: &ApiState,
    caller: &Principal,
    id: JobId,
    query: &body::MetricsQuery,
) -> Result<body::JobMetrics, ApiError> {
    let limit = query.limit.unwrap_or(METRICS_DEFAULT);
    if !METRICS_LIMIT.contains(&limit) {
        let (least, most) = (METRICS_LIMIT.start(), METRICS_LIMIT.end());
        return Err(ApiError::parameter(
            "limit",
            format!("`limit` must be from {least} to {most}; {limit} was given."),
        ));
    }
    find(state, caller, id).await?;
    let mut rows = metrics::list(
        &state.store,
        caller.organization_id,
        id,
        query.after_step,
        limit + 1,
    )
    .await?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    Ok(body::JobMetrics {
        object: "list".to_owned(),
        last_step: rows.last().map(|row| row.step),
        data: rows.iter().map(metric_view).collect(),
        has_more,
    })
}

/// The saved states of a job, the one to resume from first.
///
/// # Errors
/// The organization has no such job.
pub async fn list_checkpoints(
    state: &ApiState,
    caller: &Principal,
    id: JobId,
) -> Result<List<body::Checkpoint>, ApiError> {
    find(state, caller, id).await?;
    let rows = checkpoints::list(&state.store, caller.organization_id, id, MOST_CHECKPOINTS).await?;
    let data = rows.into_iter().map(checkpoint_view).collect();
    Ok(List::new(data, false, |checkpoint: &body::Checkpoint| {
        checkpoint.id.to_string()
    }))
}
