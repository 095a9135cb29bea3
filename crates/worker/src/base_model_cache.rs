//! Base models on this machine's disk, by digest, downloaded once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tunesmith_blobs::{BlobError, BlobKey, Blobs};
use tunesmith_store::files::StoredFile;
use tunesmith_types::names::Sha256Digest;

use crate::failure::{Failure, chain};

/// Touched whenever a model is used; not part of the model.
const USED: &str = ".used";

/// The cache's folder. Processes may share it: a model appears whole, by a rename.
#[derive(Debug)]
pub(crate) struct BaseModelCache {
    folder: PathBuf,
    limit_bytes: u64,
    one_download: Mutex<()>,
}

impl BaseModelCache {
    pub(crate) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        let folder = folder.join("base-models");
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder: folder.canonicalize()?,
            limit_bytes,
            one_download: Mutex::new(()),
        })
    }

    /// Puts the model's files into `target`, as links to the cache where both lie on one file system. Links keep the
    /// bytes when the cache forgets the model.
    pub(crate) async fn stage(
        &self,
        blobs: &Blobs,
        files: &[StoredFile],
        target: &Path,
    ) -> Result<(), Failure> {
        let entry = self.folder.join(files_digest(files));
        let _downloading = self.one_download.lock().await;
        if !is_whole(&entry, files) {
            self.download(blobs, files, &entry).await?;
        }
        let (folder, limit, target) = (self.folder.clone(), self.limit_bytes, target.to_owned());
        tokio::task::spawn_blocking(move || {
            link_all(&entry, &target)?;
            fs::write(entry.join(USED), b"")?;
            forget_oldest(&folder, limit, &entry)
        })
        .await
        .expect("invariant: linking files does not panic")
        .map_err(|error| Failure::disk("stage the base model", &error))
    }

    async fn download(&self, blobs: &Blobs, files: &[StoredFile], entry: &Path) -> Result<(), Failure> {
        let disk = |error: io::Error| Failure::disk("store the base model", &error);
        let partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(&self.folder)
            .map_err(disk)?;
        for file in files {
            fetch(blobs, file, &partial.path().join(plain_name(file)?))
                .await
                .map_err(|error| {
                    tracing::warn!(file = %file.name, error = %chain(&error), "a base model's file cannot be fetched");
                    Failure::blob("a file of the base model", &error)
                })?;
        }
        make_read_only(partial.path()).map_err(disk)?;
        if entry.exists() {
            // Damaged: is_whole has just said so.
            fs::remove_dir_all(entry).map_err(disk)?;
        }
        fs::rename(partial.path(), entry).or_else(|error| {
            // Another worker was faster.
            if is_whole(entry, files) {
                Ok(())
            } else {
                Err(disk(error))
            }
        })
    }
}

/// Downloads a file that a row names; its bytes are what the row says, or there is an error.
pub(crate) async fn fetch(blobs: &Blobs, file: &StoredFile, path: &Path) -> Result<(), BlobError> {
    let key: BlobKey = file.key.parse()?;
    let sha256: Sha256Digest = file.sha256.parse().map_err(|_| BlobError::DigestMismatch {
        key: file.key.clone(),
        expected: file.sha256.clone(),
        actual: "not looked at".to_owned(),
    })?;
    blobs.get_to_file(&key, path, Some(&sha256)).await.map(drop)
}

/// A row's file name, which the API took from our own list; checked again because it becomes a path here.
fn plain_name(file: &StoredFile) -> Result<&str, Failure> {
    if tunesmith_blobs::keys::is_base_model_file(&file.name) {
        Ok(&file.name)
    } else {
        Err(Failure::last(
            "base_model_invalid",
            format!(
                "The base model has a file `{}` that has no place there.",
                file.name
            ),
        ))
    }
}

/// Over names and hashes of all files: two models that share weights but not the tokenizer are two entries.
fn files_digest(files: &[StoredFile]) -> String {
    let mut lines: Vec<String> = files
        .iter()
        .map(|file| format!("{}  {}\n", file.sha256, file.name))
        .collect();
    lines.sort();
    hex::encode(Sha256::digest(lines.concat()))
}

/// Run directories hold links to these very files.
fn make_read_only(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(file.path(), permissions)?;
    }
    Ok(())
}

fn is_whole(entry: &Path, files: &[StoredFile]) -> bool {
    files.iter().all(|file| {
        fs::metadata(entry.join(&file.name))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.bytes)
    })
}

fn link_all(entry: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir(target)?;
    for file in fs::read_dir(entry)? {
        let file = file?;
        if file.file_name() == USED {
            continue;
        }
        let place = target.join(file.file_name());
        if fs::hard_link(file.path(), &place).is_err() {
            std::os::unix::fs::symlink(file.path(), &place)?;
        }
    }
    Ok(())
}

/// Removes the models that were not used for longest, until the rest fits; never the one just used.
fn forget_oldest(folder: &Path, limit_bytes: u64, keep: &Path) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let used = fs::metadata(path.join(USED)).and_then(|metadata| metadata.modified());
        entries.push((used.unwrap_or(SystemTime::UNIX_EPOCH), folder_bytes(&path)?, path));
    }
    entries.sort();
    let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in entries {
        let partial = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if total <= limit_bytes {
            break;
        }
        if path == keep || partial {
            continue;
        }
        tracing::info!(path = %path.display(), bytes, "removing a base model from the cache");
        fs::remove_dir_all(&path)?;
        total -= bytes;
    }
    Ok(())
}

fn folder_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}
