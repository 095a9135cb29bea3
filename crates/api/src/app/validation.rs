//! Validating datasets behind the answer: the bytes stream from the object store through the validator on a thread of
//! its own, a few datasets at a time.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tunesmith_blobs::BlobError;
use tunesmith_dataset::Validator;
use tunesmith_store::StoreError;
use tunesmith_store::datasets::{self, Dataset, Validation};
use tunesmith_types::dataset::ValidationReport;

use crate::error::ApiError;
use crate::state::ApiState;

/// Datasets that are validated at a time.
pub(crate) const PARALLEL: usize = 2;
/// Pieces between the object store and the validator.
const PIECES_AHEAD: usize = 8;
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Validates the dataset in a task of its own.
pub fn begin(state: &ApiState, dataset: &Dataset) {
    let (state, dataset) = (state.clone(), dataset.clone());
    tokio::spawn(async move {
        let _permit = state
            .validations
            .acquire()
            .await
            .expect("invariant: the semaphore is never closed");
        if let Err(error) = persistently(&state, &dataset).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(dataset = %dataset.id, error, "could not validate a dataset; the next start takes it up");
        }
    });
}

/// Takes up what a process that ended has left; called once at start.
///
/// # Errors
/// The database fails.
pub async fn take_up(state: &ApiState) -> Result<(), ApiError> {
    for dataset in datasets::unvalidated(&state.store).await? {
        begin(state, &dataset);
    }
    Ok(())
}

/// The gate that lets [`PARALLEL`] validations through.
pub(crate) fn gate() -> Semaphore {
    Semaphore::new(PARALLEL)
}

async fn persistently(state: &ApiState, dataset: &Dataset) -> Result<(), ApiError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match validate(state, dataset).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(dataset = %dataset.id, error, "validation failed; it is tried again");
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    validate(state, dataset).await
}

async fn validate(state: &ApiState, dataset: &Dataset) -> Result<(), ApiError> {
    let report = read(state, dataset).await?;
    let stored = serde_json::to_value(&report).expect("invariant: a report has string keys and serialises");
    let validation = Validation {
        valid: report.valid,
        examples: i64::try_from(report.examples).unwrap_or(i64::MAX),
        report: &stored,
    };
    match datasets::finish_validation(&state.store, dataset.organization_id, dataset.id, &validation).await {
        // Deleted in the meantime.
        Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            tracing::info!(dataset = %dataset.id, valid = report.valid, examples = report.examples, "dataset validated");
            Ok(())
        }
    }
}

async fn read(state: &ApiState, dataset: &Dataset) -> Result<ValidationReport, ApiError> {
    let key = dataset.blob_key.parse().map_err(BlobError::Key)?;
    let mut body = state.blobs.get_stream(&key, None).await?;
    let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(PIECES_AHEAD);
    let validator = tokio::task::spawn_blocking(move || {
        let mut validator = Validator::default();
        while let Some(piece) = receiver.blocking_recv() {
            validator.push(&piece);
        }
        validator.finish()
    });
    let mut bytes = 0;
    while let Some(piece) = body.stream.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if sender.send(piece).await.is_err() {
            return Err(ApiError::Unexpected("the validator ended early"));
        }
    }
    drop(sender);
    if bytes != body.bytes {
        return Err(ApiError::Unexpected("the dataset's bytes broke off"));
    }
    validator
        .await
        .map_err(|_| ApiError::Unexpected("the validator panicked"))
}
