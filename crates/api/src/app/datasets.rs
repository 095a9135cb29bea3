//! Datasets: streamed in, validated behind the answer, streamed out.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt};
use tunesmith_blobs::{BlobBody, BlobError, BlobKey};
use tunesmith_store::datasets::{self, NewDataset};
use tunesmith_types::api::datasets as body;
use tunesmith_types::dataset::ValidationReport;
use tunesmith_types::ids::{DatasetId, OrganizationId};
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;

use super::validation;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "dataset";
/// A body that is silent for so long has been left.
const IDLE: Duration = Duration::from_secs(60);

/// Stores the bytes while hashing them, registers them under the next number of the name, and has them validated.
///
/// # Errors
/// The name breaks its rule, or the body breaks off; nothing is visible then.
pub async fn upload(
    state: &ApiState,
    caller: &Principal,
    query: &body::UploadDatasetQuery,
    content: Body,
) -> Result<body::Dataset, ApiError> {
    let name = ResourceName::parse("name", &query.name)?;
    let id = DatasetId::new();
    let key = BlobKey::dataset(caller.organization_id, id);
    let stored = state
        .blobs
        .put_stream(&key, impatient(content))
        .await
        .map_err(incomplete)?;
    let new = NewDataset {
        id,
        name: &name,
        sha256: &stored.sha256,
        bytes: i64::try_from(stored.bytes)
            .map_err(|_| ApiError::Unexpected("a dataset beyond all measure"))?,
        blob_key: key.as_str(),
        created_by: caller.user_id,
    };
    let dataset = datasets::create(&state.store, caller.organization_id, &new).await?;
    validation::begin(state, &dataset);
    tracing::info!(dataset = %dataset.id, bytes = dataset.bytes, "dataset uploaded");
    view(dataset, true)
}

/// The bytes of a request's body; an error where none come for [`IDLE`].
pub(crate) fn impatient(content: Body) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let mut pieces = content.into_data_stream();
    async_stream::try_stream! {
        loop {
            let next = tokio::time::timeout(IDLE, pieces.next()).await;
            let next = next.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?;
            match next {
                Some(piece) => yield piece.map_err(std::io::Error::other)?,
                None => break,
            }
        }
    }
}

/// A body that broke off is the caller's affair.
pub(super) fn incomplete(error: BlobError) -> ApiError {
    match error {
        BlobError::Source { source, .. } => {
            tracing::debug!(error = &*source as &dyn std::error::Error, "an upload broke off");
            ApiError::Invalid {
                code: "body_incomplete",
                param: None,
                message: "The body broke off before its end; nothing was stored. Upload it again.".to_owned(),
            }
        }
        other => other.into(),
    }
}

/// The organization's datasets, without their reports.
///
/// # Errors
/// The page request is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &PageQuery,
) -> Result<List<body::Dataset>, ApiError> {
    let page = query.parse()?;
    let rows = datasets::list(&state.store, caller.organization_id, &page).await?;
    let has_more = rows.has_more;
    let data = rows
        .rows
        .into_iter()
        .map(|row| view(row, false))
        .collect::<Result<_, _>>()?;
    Ok(List::new(data, has_more, |dataset: &body::Dataset| {
        dataset.id.to_string()
    }))
}

/// One dataset with its report.
///
/// # Errors
/// The organization has no such dataset.
pub async fn get(state: &ApiState, caller: &Principal, id: DatasetId) -> Result<body::Dataset, ApiError> {
    view(find(state, caller, id).await?, true)
}

/// What the validator found.
///
/// # Errors
/// The organization has no such dataset, or the validator has not finished.
pub async fn report(
    state: &ApiState,
    caller: &Principal,
    id: DatasetId,
) -> Result<ValidationReport, ApiError> {
    let dataset = get(state, caller, id).await?;
    dataset.report.ok_or_else(|| {
        let message =
            "The dataset is still being validated; ask again when its status is no longer `validating`.";
        ApiError::conflict("dataset_not_validated", message)
    })
}

/// The bytes as they were uploaded.
///
/// # Errors
/// The organization has no such dataset.
pub async fn content(
    state: &ApiState,
    caller: &Principal,
    id: DatasetId,
) -> Result<(datasets::Dataset, BlobBody), ApiError> {
    let dataset = find(state, caller, id).await?;
    let key = dataset.blob_key.parse().map_err(BlobError::Key)?;
    let content = state.blobs.get_stream(&key, None).await?;
    Ok((dataset, content))
}

/// Takes a dataset away that no job was made from.
///
/// # Errors
/// The organization has no such dataset, or a job was made from it.
pub async fn delete(state: &ApiState, caller: &Principal, id: DatasetId) -> Result<(), ApiError> {
    let dataset = find(state, caller, id).await?;
    datasets::delete(&state.store, caller.organization_id, id)
        .await
        .or_not_found(KIND, id)?;
    let key = dataset.blob_key.parse().map_err(BlobError::Key)?;
    if let Err(error) = state.blobs.delete(&key).await {
        tracing::warn!(%key, error = &error as &dyn std::error::Error, "a deleted dataset's bytes are left behind");
    }
    Ok(())
}

/// The dataset that a job request names: an id, `name@number`, or a name for its newest number.
///
/// # Errors
/// The organization has no such dataset.
pub(super) async fn resolve(
    state: &ApiState,
    organization: OrganizationId,
    reference: &str,
) -> Result<datasets::Dataset, ApiError> {
    if let Ok(id) = reference.parse::<DatasetId>() {
        return datasets::get(&state.store, organization, id)
            .await
            .or_unknown(KIND, KIND, reference);
    }
    let (name, number) = match reference.split_once('@') {
        Some((name, number)) => {
            let number = number
                .parse()
                .map_err(|_| ApiError::unknown(KIND, KIND, reference))?;
            (name, Some(number))
        }
        None => (reference, None),
    };
    if name.parse::<ResourceName>().is_err() {
        return Err(ApiError::unknown(KIND, KIND, reference));
    }
    datasets::find(&state.store, organization, name, number)
        .await
        .or_unknown(KIND, KIND, reference)
}

async fn find(state: &ApiState, caller: &Principal, id: DatasetId) -> Result<datasets::Dataset, ApiError> {
    datasets::get(&state.store, caller.organization_id, id)
        .await
        .or_not_found(KIND, id)
}

/// The stored report.
///
/// # Errors
/// Another build wrote it.
pub(super) fn stored_report(dataset: &datasets::Dataset) -> Result<Option<ValidationReport>, ApiError> {
    let parse = |report| {
        serde_json::from_value(report).map_err(|_| ApiError::Unexpected("a stored report does not parse"))
    };
    dataset.report.clone().map(parse).transpose()
}

fn view(dataset: datasets::Dataset, with_report: bool) -> Result<body::Dataset, ApiError> {
    let report = if with_report {
        stored_report(&dataset)?
    } else {
        None
    };
    Ok(body::Dataset {
        id: dataset.id,
        object: "dataset".to_owned(),
        reference: format!("{}@{}", dataset.name, dataset.number),
        name: dataset.name.to_string(),
        number: dataset.number,
        bytes: dataset.bytes,
        sha256: dataset.sha256.to_string(),
        status: dataset.state,
        examples: dataset.examples,
        report,
        created_at: dataset.created_at.timestamp(),
        validated_at: dataset.validated_at.map(|time| time.timestamp()),
    })
}
