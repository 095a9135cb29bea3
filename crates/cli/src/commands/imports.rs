//! `adapters import`.

use std::{fs::File, io::Seek, path::Path};

use anyhow::{Context, bail};
use tunesmith_types::api::adapters::ImportAdapterQuery;

use crate::{
    client::ApiClient,
    printer::Printer,
    terminal::{progress, text::bytes},
};

/// Uploads a PEFT folder, or a tar archive of one, and prints the version that it became.
pub(super) async fn import(
    client: &ApiClient,
    source: &Path,
    name: &str,
    base_model: &str,
    printer: Printer,
) -> anyhow::Result<()> {
    let packed;
    let archive = if source.is_dir() {
        let folder = source.to_path_buf();
        packed = tokio::task::spawn_blocking(move || pack(&folder))
            .await
            .context("cannot pack the folder")??;
        packed.path()
    } else {
        source
    };
    let length = std::fs::metadata(archive)
        .with_context(|| format!("cannot read {}", archive.display()))?
        .len();
    printer.words(format_args!("uploading {} ({})", source.display(), bytes(length)));
    let bar = progress::transfer(length);
    let body = progress::file_body(archive, &bar).await?;
    let query = ImportAdapterQuery {
        base_model: base_model.to_owned(),
    };
    let imported = client.import_adapter(name, &query, body).await;
    bar.finish_and_clear();
    let imported = imported?;
    for file in &imported.ignored_files {
        printer.words(format_args!("left out {file}"));
    }
    printer.result(&imported, || {
        format!("{} is imported", imported.version.reference)
    });
    Ok(())
}

/// The files of a folder, without those in folders within it, such as the checkpoints of a training.
fn pack(folder: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let reading = || format!("cannot read {}", folder.display());
    let archive = tempfile::NamedTempFile::new().context("cannot write a temporary archive")?;
    let mut builder = tar::Builder::new(archive);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        // A link to a file is the file itself: caches of models are made of them.
        if entry.path().is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    if !names.iter().any(|name| name == "adapter_config.json") {
        bail!(
            "{} is no PEFT folder: it has no adapter_config.json",
            folder.display()
        );
    }
    for name in names {
        let path = folder.join(&name);
        let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let length = file.metadata().with_context(reading)?.len();
        let mut header = tar::Header::new_ustar();
        header.set_size(length);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, &name, &mut file)
            .with_context(|| format!("cannot pack {}", path.display()))?;
    }
    let mut archive = builder.into_inner().context("cannot write a temporary archive")?;
    archive.rewind().context("cannot write a temporary archive")?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_packed_with_its_files_only() {
        let folder = tempfile::tempdir().unwrap();
        assert!(pack(folder.path()).is_err());
        std::fs::create_dir(folder.path().join("checkpoint-10")).unwrap();
        for name in [
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoint-10/optimizer.pt",
        ] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let archive = pack(folder.path()).unwrap();
        let mut read = tar::Archive::new(File::open(archive.path()).unwrap());
        let names: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    }
}
