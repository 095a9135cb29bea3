//! Exports of adapter versions: claimed one at a time beside the training, made in a folder of their own, verified,
//! uploaded, and then one write that makes them count.

use std::{path::Path, sync::Arc};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tunesmith_blobs::{BlobKey, keys::ExportPlace};
use tunesmith_store::{
    StoreError,
    base_models::BaseModelDetails,
    exports::{self, ClaimedExport, ExportToken},
    files::StoredFile,
};
use tunesmith_types::states::ExportFormat;

use crate::{
    base_model_cache::fetch,
    failure::{Failure, chain},
    persist::persist,
    publish::upload,
    run::WorkerContext,
    stage::base_model_details,
    worker::wait_at_most,
};

mod archive;
mod gguf;
mod gguf_file;
mod merged;
mod model_card;

/// Claims of one export before it counts as failed, whether they ended with an error or with silence.
const MOST_ATTEMPTS: i32 = 3;

/// Makes exports until the worker goes away.
pub(crate) async fn serve_exports(context: Arc<WorkerContext>) {
    let queue = context.settings.queue;
    while !context.draining.is_cancelled() {
        let name = &context.settings.name;
        match exports::claim(&context.store, queue.ttl, queue.takeover_grace, name).await {
            Ok(Some(claimed)) => handle(&context, &claimed).await,
            Ok(None) => wait_at_most(&context, context.settings.timings.poll).await,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "exports cannot be claimed");
                wait_at_most(&context, context.settings.timings.poll).await;
            }
        }
    }
}

/// Makes one export and tells how it went. The moment the lease is lost everything stops, and nothing more is written.
async fn handle(context: &WorkerContext, claimed: &ClaimedExport) {
    let token = &claimed.token;
    let work = async {
        let told = match make(context, claimed).await {
            Ok(made) => complete(context, token, &made).await,
            Err(failure) => fail(context, claimed, &failure).await,
        };
        if let Err(error) = told {
            tracing::warn!(export = %token.export_id, error = %chain(&error), "the end of an export could not be recorded");
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = until_lost(context, token) => {
            tracing::warn!(export = %token.export_id, "an export was given up: its lease is lost");
        }
        () = context.draining.cancelled() => {
            if let Err(error) = exports::release(&context.store, token).await {
                tracing::warn!(export = %token.export_id, error = %chain(&error), "an export could not be given back");
            }
        }
    }
}

/// Renews the lease; returns when it is lost, or when it may be because nobody answers.
async fn until_lost(context: &WorkerContext, token: &ExportToken) {
    let (timings, ttl) = (&context.settings.timings, context.settings.queue.ttl);
    let mut answered = Instant::now();
    while answered.elapsed() < timings.self_fence {
        tokio::time::sleep(timings.renew).await;
        let sent = Instant::now();
        match exports::renew(&context.store, token, ttl).await {
            Ok(()) => answered = sent,
            Err(StoreError::LeaseLost) => return,
            Err(error) => tracing::warn!(error = %chain(&error), "the lease of an export cannot be renewed"),
        }
    }
}

/// An export whose blobs are in place, which no row names yet.
struct Made {
    files: Vec<StoredFile>,
    verification: Value,
}

/// Files of an export in its folder, and how they were verified.
struct Built {
    names: Vec<String>,
    verification: Value,
}

/// What an export is made from, on this machine's disk.
struct Sources<'a> {
    claimed: &'a ClaimedExport,
    base: &'a BaseModelDetails,
    folder: &'a Path,
}

impl Sources<'_> {
    /// The version's files.
    fn adapter(&self) -> std::path::PathBuf {
        self.folder.join("adapter")
    }

    /// Where the export's files are put.
    fn out(&self) -> std::path::PathBuf {
        self.folder.join("out")
    }
}

async fn make(context: &WorkerContext, claimed: &ClaimedExport) -> Result<Made, Failure> {
    if claimed.attempts > MOST_ATTEMPTS {
        let message = "Several workers went silent while they made this export.";
        return Err(Failure::last("poison", message));
    }
    let disk = |error: std::io::Error| Failure::disk("make a folder for an export", &error);
    let folder: TempDir = context.scratch.export_directory().map_err(disk)?;
    let sources = Sources {
        claimed,
        base: base_model_details(&claimed.base_model)?,
        folder: folder.path(),
    };
    std::fs::create_dir(sources.adapter()).map_err(disk)?;
    for file in &claimed.version.files {
        fetch(&context.blobs, file, &sources.adapter().join(plain_name(file)?))
            .await
            .map_err(|error| {
                tracing::warn!(export = %claimed.token.export_id, error = %chain(&error), "a file cannot be fetched");
                Failure::blob("a file of the adapter", &error)
            })?;
    }
    let built = match claimed.format {
        ExportFormat::Peft => archive::build(&sources).await?,
        ExportFormat::Gguf => gguf::build(&sources).await?,
        ExportFormat::Merged => merged::build(context, &sources).await?,
    };
    let ExportToken {
        export_id,
        epoch,
        lease_id,
    } = claimed.token;
    let place = ExportPlace {
        export: export_id,
        epoch,
        lease: lease_id,
    };
    let mut files = Vec::new();
    for name in &built.names {
        let key = BlobKey::export_file(place, name)
            .map_err(|_| Failure::last("export_invalid", format!("An export has no file `{name}`.")))?;
        files.push(upload(context, &key, &sources.out().join(name), "the export").await?);
    }
    Ok(Made {
        files,
        verification: built.verification,
    })
}

/// A row's file name becomes a path here.
fn plain_name(file: &StoredFile) -> Result<&str, Failure> {
    match file.name.as_str() {
        name @ ("adapter_config.json" | "adapter_model.safetensors") => Ok(name),
        name => Err(Failure::last(
            "adapter_invalid",
            format!("The version has a file `{name}` that has no place in a PEFT folder."),
        )),
    }
}

async fn complete(context: &WorkerContext, token: &ExportToken, made: &Made) -> Result<(), StoreError> {
    persist(context.settings.timings.retry, || {
        exports::complete(&context.store, token, &made.files, &made.verification)
    })
    .await?;
    tracing::info!(export = %token.export_id, "an export is there");
    Ok(())
}

async fn fail(context: &WorkerContext, claimed: &ClaimedExport, failure: &Failure) -> Result<(), StoreError> {
    let token = &claimed.token;
    tracing::warn!(export = %token.export_id, code = failure.code, message = failure.message, "an export failed");
    let is_tried_again = failure.retryable && claimed.attempts < MOST_ATTEMPTS;
    let retry_after = is_tried_again.then_some(context.settings.queue.retry_base);
    let error = failure.to_row().error;
    persist(context.settings.timings.retry, || {
        exports::fail(&context.store, token, &error, retry_after)
    })
    .await
}

/// Runs what blocks and only fails in known ways.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("invariant: making an export does not panic")
}
