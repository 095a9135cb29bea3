//! The PEFT form: one tar archive of a folder with the version's very files and a model card.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Built, Sources, blocking, model_card::model_card};
use crate::{adapter_folder::verify_tensors, failure::Failure};

const ARCHIVE: &str = "adapter.tar";

pub(super) async fn build(sources: &Sources<'_>) -> Result<Built, Failure> {
    let version = &sources.claimed.version;
    let card = model_card(version);
    let folder = format!("{}-v{}", version.adapter, version.number);
    let (adapter, out) = (sources.adapter(), sources.out());
    let expected: Vec<(String, String)> = version
        .files
        .iter()
        .map(|file| (file.name.clone(), file.sha256.clone()))
        .collect();
    blocking(move || {
        let disk = |error: io::Error| Failure::disk("write an archive", &error);
        verify_tensors(&adapter).map_err(|error| {
            Failure::last(
                "adapter_invalid",
                format!("The version cannot be exported: {error}."),
            )
        })?;
        fs::create_dir(&out).map_err(disk)?;
        write(&out.join(ARCHIVE), &folder, &adapter, &card).map_err(disk)?;
        let found = read_back(&out.join(ARCHIVE), &folder).map_err(disk)?;
        for file in &expected {
            if !found.contains(file) {
                let message = format!("`{}` is not in the archive as it is in the version.", file.0);
                return Err(Failure::retryable("export_differs", message));
            }
        }
        Ok(())
    })
    .await?;
    Ok(Built {
        names: vec![ARCHIVE.to_owned()],
        verification: json!({
            "method": "the archive was read back: every file of the version is in it, byte for byte by sha256, and every \
                       number is finite",
            "files": version.files.iter().map(|file| json!({"name": file.name, "sha256": file.sha256})).collect::<Vec<_>>(),
        }),
    })
}

/// Files in the order of their names, without owner or time: the same version gives the same bytes.
fn write(path: &Path, folder: &str, adapter: &Path, card: &str) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::new(File::create(path)?));
    let header = |size: u64, name: &str| -> io::Result<tar::Header> {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("{folder}/{name}"))?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        Ok(header)
    };
    archive.append(&header(card.len() as u64, "README.md")?, card.as_bytes())?;
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let file = File::open(adapter.join(name))?;
        archive.append(&header(file.metadata()?.len(), name)?, file)?;
    }
    archive.into_inner()?.flush()
}

/// Name and sha256 of every file of the archive.
fn read_back(path: &Path, folder: &str) -> io::Result<Vec<(String, String)>> {
    let mut archive = tar::Archive::new(io::BufReader::new(File::open(path)?));
    let mut found = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut hash = Sha256::new();
        io::copy(&mut entry, &mut hash)?;
        let name = path.strip_prefix(folder).unwrap_or(&path);
        found.push((
            name.trim_start_matches('/').to_owned(),
            hex::encode(hash.finalize()),
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_files_give_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), [7; 700]).unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            write(&path, "support-v7", folder.path(), "# support").unwrap();
            (fs::read(&path).unwrap(), read_back(&path, "support-v7").unwrap())
        };
        let (bytes, files) = make("one.tar");
        assert_eq!(bytes, make("other.tar").0);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["README.md", "adapter_config.json", "adapter_model.safetensors"]
        );
        assert_eq!(files[2].1, hex::encode(Sha256::digest([7; 700])));
    }
}
