//! A model from the Hugging Face Hub becomes a base model.

use anyhow::{Context, bail};
use hf_hub::{Repo, RepoType, api::tokio::ApiBuilder};
use tunesmith_blobs::keys::is_base_model_file;
use tunesmith_types::api::base_models::BaseModel;

use super::register::register;
use crate::{client::ApiClient, printer::Printer};

/// Downloads the files that belong to a model into the Hub's usual cache, then registers them.
pub(super) async fn pull(
    client: &ApiClient,
    repository: &str,
    revision: &str,
    name: Option<String>,
    printer: Printer,
) -> anyhow::Result<BaseModel> {
    let Some((_, own_name)) = repository.split_once('/') else {
        bail!("`{repository}` is no repository; write it as `owner/name`");
    };
    let name = name.unwrap_or_else(|| own_name.to_lowercase());
    let hub = ApiBuilder::from_env()
        .with_progress(true)
        .build()
        .context("cannot use the Hub's cache folder")?;
    let repo = hub.repo(Repo::with_revision(
        repository.to_owned(),
        RepoType::Model,
        revision.to_owned(),
    ));
    let info = repo
        .info()
        .await
        .with_context(|| format!("cannot read `{repository}` on the Hugging Face Hub"))?;
    let wanted: Vec<&str> = info
        .siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .filter(|file| is_base_model_file(file))
        .collect();
    if !wanted.iter().any(|file| file.ends_with(".safetensors")) {
        bail!("`{repository}` has no safetensors weights; other formats are not read");
    }
    printer.words(format_args!(
        "downloading {} files of {repository} at {}",
        wanted.len(),
        info.sha
    ));
    let mut folder = None;
    for file in wanted {
        let path = repo
            .get(file)
            .await
            .with_context(|| format!("cannot download {file}"))?;
        folder = path.parent().map(ToOwned::to_owned);
    }
    let folder = folder.context("the repository is empty")?;
    register(client, &folder, Some(name), printer).await
}
