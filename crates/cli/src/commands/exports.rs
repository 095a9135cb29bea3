//! `adapters export`: asks for an export, waits until it is made and verified, and takes it home.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tunesmith_types::{
    api::{
        adapters::{DownloadableFile, DownloadableFiles},
        exports::{AdapterExport, CreateExportRequest},
    },
    names::ResourceName,
    states::{ExportDtype, ExportFormat, ExportState},
};

use crate::{
    args::client::ExportArgs,
    client::ApiClient,
    printer::{Printer, details},
};

const POLL: Duration = Duration::from_millis(500);

pub(super) async fn export(
    client: &ApiClient,
    name: &str,
    number: i32,
    args: &ExportArgs,
    printer: Printer,
) -> anyhow::Result<()> {
    let name: ResourceName = name.parse()?;
    let format: ExportFormat = args.format.parse()?;
    let dtype = args.dtype.as_deref().map(str::parse::<ExportDtype>).transpose()?;
    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}-v{number}-{format}")));
    if folder.exists() {
        bail!(
            "{} exists already; choose another folder with --out",
            folder.display()
        );
    }
    let request = CreateExportRequest { format, dtype };
    let path = format!("/v1/adapters/{name}/versions/{number}/exports");
    let asked: AdapterExport = client.post(&path, &request).await?;
    let export = wait(client, asked).await?;
    let path = format!("/v1/exports/{}/files", export.id);
    let files: DownloadableFiles = client.get(&path).await?;
    take_home(&files.data, &folder).await?;
    printer.result(&export, || {
        let verification = export.verification.clone().unwrap_or_default();
        details(&[
            ("version", export.version.clone()),
            ("format", export.format.to_string()),
            ("folder", folder.display().to_string()),
            ("verified", format!("{verification:#}")),
        ])
    });
    Ok(())
}

async fn wait(client: &ApiClient, mut export: AdapterExport) -> anyhow::Result<AdapterExport> {
    loop {
        match export.status {
            ExportState::Succeeded => return Ok(export),
            ExportState::Failed => {
                let error = export
                    .error
                    .map(|error| format!("{} [{}]", error.message, error.code));
                bail!("the export failed: {}", error.unwrap_or_default());
            }
            ExportState::Queued | ExportState::Running => tokio::time::sleep(POLL).await,
        }
        export = client.get(&format!("/v1/exports/{}", export.id)).await?;
    }
}

/// Makes `folder`: whole, or not there at all. Every file is compared with its sha256.
async fn take_home(files: &[DownloadableFile], folder: &Path) -> anyhow::Result<()> {
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let staging = tempfile::Builder::new().prefix(".export-").tempdir_in(parent);
    let staging = staging.with_context(|| format!("cannot write into {}", parent.display()))?;
    let whole = staging.path().join("export");
    std::fs::create_dir(&whole).with_context(|| format!("cannot write into {}", parent.display()))?;
    for file in files {
        // A name of the server becomes a path here.
        let name = Path::new(&file.file.name).file_name();
        let name = name.filter(|name| *name == file.file.name.as_str());
        let name =
            name.with_context(|| format!("the export has a file with the name `{}`", file.file.name))?;
        download(file, &whole.join(name)).await?;
    }
    std::fs::rename(&whole, folder).with_context(|| format!("cannot create {}", folder.display()))
}

async fn download(file: &DownloadableFile, path: &Path) -> anyhow::Result<()> {
    let name = &file.file.name;
    let response = reqwest::get(&file.url)
        .await
        .and_then(reqwest::Response::error_for_status);
    let response = response.with_context(|| format!("cannot download {name}"))?;
    let mut bytes = response.bytes_stream();
    let mut target = tokio::fs::File::create(path)
        .await
        .with_context(|| format!("cannot create {}", path.display()))?;
    let mut hash = Sha256::new();
    while let Some(piece) = bytes
        .try_next()
        .await
        .with_context(|| format!("the download of {name} broke off"))?
    {
        hash.update(&piece);
        target
            .write_all(&piece)
            .await
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    target
        .sync_all()
        .await
        .with_context(|| format!("cannot write {}", path.display()))?;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.file.sha256 {
        bail!(
            "{name} is damaged: its sha256 is {found}, not {}",
            file.file.sha256
        );
    }
    Ok(())
}
