//! A folder in Hugging Face layout becomes a base model.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tunesmith_blobs::keys::is_base_model_file;
use tunesmith_types::api::base_models::BaseModel;

use crate::{
    client::ApiClient,
    printer::Printer,
    terminal::{progress, text::bytes},
};

/// Uploads the files of `folder` that belong to a model, and completes the registration.
pub(in crate::commands) async fn register(
    client: &ApiClient,
    folder: &Path,
    name: Option<String>,
    printer: Printer,
) -> anyhow::Result<BaseModel> {
    let files = model_files(folder)?;
    let name = match name {
        Some(name) => name,
        None => name_of(folder)?,
    };
    let total: u64 = files.iter().map(|file| file.1).sum();
    printer.words(format_args!(
        "uploading {} files ({}) as base model `{name}`",
        files.len(),
        bytes(total)
    ));
    let model = client.create_base_model(&name).await?;
    let bar = progress::transfer(total);
    for (path, _) in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let body = progress::file_body(path, &bar).await?;
        client
            .put_base_model_file(model.id, &name, body)
            .await
            .with_context(|| format!("cannot upload {name}"))?;
    }
    bar.finish_and_clear();
    client.complete_base_model(model.id).await
}

/// Files that belong to a model, with their sizes, in the order of their names.
fn model_files(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read the folder {}", folder.display()))?
            .path();
        let known = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_base_model_file);
        let metadata = fs::metadata(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if known && metadata.is_file() {
            files.push((path, metadata.len()));
        }
    }
    files.sort();
    for needed in ["config.json", "tokenizer.json"] {
        if !files.iter().any(|(path, _)| path.ends_with(needed)) {
            bail!(
                "{} has no {needed}; a folder in Hugging Face layout is needed",
                folder.display()
            );
        }
    }
    Ok(files)
}

/// The folder's own name, as names must be.
fn name_of(folder: &Path) -> anyhow::Result<String> {
    let folder = fs::canonicalize(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase());
    name.context("give the model a name with --name")
}
