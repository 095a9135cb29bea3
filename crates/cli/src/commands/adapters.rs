//! `adapters list|show|download|delete|lineage|export|import`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::json;
use tunesmith_types::{
    api::adapters::{Adapter, AdapterVersion, DeleteVersionQuery, ListVersionsQuery},
    list::List,
    version_reference::VersionReference,
};

use super::{aliases, exports, imports, lineage, page, say_more};
use crate::{
    args::client::AdaptersCommand,
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::{ago, bytes},
};

pub(super) async fn run(
    client: &ApiClient,
    command: AdaptersCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        AdaptersCommand::List(list) => {
            let adapters: List<Adapter> = client.list("/v1/adapters", &page(&list)).await?;
            printer.result(&adapters, || {
                let rows = adapters.data.iter().map(|adapter| {
                    let newest = adapter.latest_version.to_string();
                    vec![
                        adapter.name.clone(),
                        newest,
                        adapter.base_model.clone(),
                        ago(adapter.created_at),
                    ]
                });
                table(
                    &["name", "newest version", "base model", "created"],
                    rows.collect(),
                )
            });
            say_more(printer, adapters.has_more, adapters.last_id.as_deref());
        }
        AdaptersCommand::Show {
            adapter,
            include_deleted,
        } => match parse(&adapter)? {
            (name, Some(version)) => show_version(&client.adapter_version(name, &version).await?, printer),
            (name, None) => {
                let query = ListVersionsQuery {
                    after: None,
                    limit: Some(100),
                    include_deleted,
                };
                let versions = client.list_versions(name, &query).await?;
                printer.result(&versions, || version_table(&versions.data));
            }
        },
        AdaptersCommand::Alias(command) => aliases::run(client, command, printer).await?,
        AdaptersCommand::Lineage { adapter } => {
            let (name, version) = parse(&adapter)?;
            let version = version.unwrap_or(VersionReference::Latest);
            lineage::show(&client.lineage(name, &version).await?, printer);
        }
        AdaptersCommand::Delete { version, reason } => {
            let (name, Some(VersionReference::Number(number))) = parse(&version)? else {
                bail!("`{version}` names no version by its number; write it as `support@7`");
            };
            let query = DeleteVersionQuery { reason };
            let deleted = client.delete_version(name, number, &query).await?;
            printer.result(&deleted, || format!("{} is deleted", deleted.reference));
        }
        AdaptersCommand::Download { adapter, out } => {
            let (name, version) = parse(&adapter)?;
            let number = match version.unwrap_or(VersionReference::Latest) {
                VersionReference::Number(number) => number,
                // What it means now; it may be moved before the download begins.
                other => client.adapter_version(name, &other).await?.number,
            };
            let folder = out.unwrap_or_else(|| PathBuf::from(format!("{name}-v{number}")));
            download(client, name, number, &folder).await?;
            let shown = json!({"adapter": name, "version": number, "folder": folder});
            printer.result(&shown, || folder.display().to_string());
        }
        AdaptersCommand::Export(args) => {
            let (name, version) = parse(&args.adapter)?;
            let version = version.unwrap_or(VersionReference::Latest);
            let number = client.adapter_version(name, &version).await?.number;
            exports::export(client, name, number, &args, printer).await?;
        }
        AdaptersCommand::Import {
            source,
            name,
            base_model,
        } => {
            imports::import(client, &source, &name, &base_model, printer).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `support`, `support@7`, `support@champion` or `support@latest`
fn parse(text: &str) -> anyhow::Result<(&str, Option<VersionReference>)> {
    let Some((name, version)) = text.split_once('@') else {
        return Ok((text, None));
    };
    match version.parse() {
        Ok(version) => Ok((name, Some(version))),
        Err(_) => bail!("`{text}` is no version; write it as `support@7` or `support@champion`"),
    }
}

fn version_table(versions: &[AdapterVersion]) -> String {
    let rows = versions.iter().map(|version| {
        vec![
            match version.deleted_at {
                Some(_) => format!("{} (deleted)", version.reference),
                None => version.reference.clone(),
            },
            version.base_model.clone(),
            bytes(version.bytes.unsigned_abs()),
            version.digest.chars().take(12).collect(),
            version
                .job_id
                .map_or_else(|| "-".to_owned(), |job| job.to_string()),
            ago(version.created_at),
        ]
    });
    table(
        &["version", "base model", "size", "digest", "job", "created"],
        rows.collect(),
    )
}

fn show_version(version: &AdapterVersion, printer: Printer) {
    printer.result(version, || {
        let manifest = serde_json::to_string_pretty(&version.manifest).unwrap_or_default();
        let shown = details(&[
            ("version", version.reference.clone()),
            ("id", version.id.to_string()),
            ("base model", version.base_model.clone()),
            ("digest", version.digest.clone()),
            ("size", bytes(version.bytes.unsigned_abs())),
            (
                "job",
                version
                    .job_id
                    .map_or_else(|| "-".to_owned(), |job| job.to_string()),
            ),
            ("created", ago(version.created_at)),
        ]);
        format!("{shown}\nmanifest  {manifest}")
    });
}

/// Makes `folder` a PEFT folder: whole, or not there at all.
pub(super) async fn download(
    client: &ApiClient,
    name: &str,
    number: i32,
    folder: &Path,
) -> anyhow::Result<()> {
    if folder.exists() {
        bail!(
            "{} exists already; choose another folder with --out",
            folder.display()
        );
    }
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let staging = tempfile::Builder::new().prefix(".download-").tempdir_in(parent);
    let staging = staging.with_context(|| format!("cannot write into {}", parent.display()))?;
    let archive = staging.path().join("adapter.tar");
    client.download_adapter(name, number, &archive).await?;
    let unpacked = staging.path().join("adapter");
    let (from, to) = (archive.clone(), unpacked.clone());
    tokio::task::spawn_blocking(move || unpack(&from, &to))
        .await
        .context("cannot unpack the archive")??;
    std::fs::rename(&unpacked, folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Takes plain files only, whatever folder the archive puts them in.
fn unpack(archive: &Path, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = std::fs::File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    let mut count = 0;
    for entry in tar::Archive::new(file)
        .entries()
        .context("the archive is damaged")?
    {
        let mut entry = entry.context("the archive is damaged")?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().context("the archive is damaged")?.into_owned();
        let name = path
            .file_name()
            .context("the archive holds a file without a name")?;
        entry
            .unpack(folder.join(name))
            .with_context(|| format!("cannot unpack {}", path.display()))?;
        count += 1;
    }
    if count == 0 {
        bail!("the archive is empty");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_read_and_nothing_else() {
        assert_eq!(parse("support").unwrap(), ("support", None));
        let seventh = Some(VersionReference::Number(7));
        assert_eq!(parse("support@7").unwrap(), ("support", seventh));
        let latest = Some(VersionReference::Latest);
        assert_eq!(parse("support@latest").unwrap(), ("support", latest));
        assert!(parse("support@champion").unwrap().1.is_some());
        for wrong in ["support@", "support@X", "support@0", "support@-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_archive_cannot_write_outside_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        let name = b"../../escaped.json";
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, &b"{}"[..]).unwrap();
        let archive = place.path().join("a.tar");
        std::fs::write(&archive, builder.into_inner().unwrap()).unwrap();
        let folder = place.path().join("deep");
        unpack(&archive, &folder).unwrap();
        assert!(folder.join("escaped.json").is_file());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
    }
}
