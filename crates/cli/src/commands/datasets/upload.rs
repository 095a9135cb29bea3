//! A file becomes a dataset.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use tunesmith_types::{api::datasets::Dataset, states::DatasetState};

use crate::{
    client::ApiClient,
    printer::Printer,
    terminal::{progress, text::bytes},
};

/// Between two looks at a validation.
const PAUSE: Duration = Duration::from_millis(200);

/// Uploads `file` and waits until it is validated, valid or not.
pub(crate) async fn upload(
    client: &ApiClient,
    file: &Path,
    name: Option<String>,
    printer: Printer,
) -> anyhow::Result<Dataset> {
    let metadata = std::fs::metadata(file).with_context(|| format!("cannot open {}", file.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a file", file.display());
    }
    let name = match name {
        Some(name) => name,
        None => file
            .file_stem()
            .context("give the dataset a name with --name")?
            .to_string_lossy()
            .to_lowercase(),
    };
    printer.words(format_args!(
        "uploading {} ({})",
        file.display(),
        bytes(metadata.len())
    ));
    let bar = progress::transfer(metadata.len());
    let body = progress::file_body(file, &bar).await?;
    let uploaded = client.upload_dataset(&name, body).await;
    bar.finish_and_clear();
    let mut dataset = uploaded?;
    while dataset.status == DatasetState::Validating {
        tokio::time::sleep(PAUSE).await;
        dataset = client.dataset(dataset.id).await?;
    }
    Ok(dataset)
}
