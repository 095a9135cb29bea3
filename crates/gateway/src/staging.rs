//! Files from S3 to this machine's disk, where engines open them. A folder is named after its digest and appears whole
//! or not at all, so a folder that exists is never looked into again.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::fs;
use tunesmith_blobs::{BlobError, BlobKey, Blobs, keys::InvalidKey};
use tunesmith_store::files::StoredFile;
use tunesmith_types::names::{DigestError, Sha256Digest};
use uuid::Uuid;

/// Why a folder could not be staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagingError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot fetch `{name}`")]
    Blob {
        name: String,
        #[source]
        source: BlobError,
    },
    #[error("`{0}` is not the name of a file")]
    Name(String),
    #[error("a row names a key that none of our programs made")]
    Key(#[from] InvalidKey),
    #[error("a row names a digest that is none")]
    Digest(#[from] DigestError),
}

impl StagingError {
    /// Whether trying again is pointless: the bytes are gone or are not the recorded ones.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Blob { source, .. } => {
                matches!(
                    source,
                    BlobError::NotFound { .. } | BlobError::DigestMismatch { .. }
                )
            }
            Self::Name(_) | Self::Key(_) | Self::Digest(_) => true,
        }
    }
}

/// Brings `files` into `folder`, each verified against its sha256. Does nothing where the folder exists.
pub(crate) async fn stage(blobs: &Blobs, files: &[StoredFile], folder: &Path) -> Result<(), StagingError> {
    if fs::try_exists(folder).await.unwrap_or(false) {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    let partial = parent.join(format!("{}.partial", Uuid::new_v4().simple()));
    fs::create_dir_all(&partial)
        .await
        .map_err(failed("create", &partial))?;
    let result = fill(blobs, files, &partial).await;
    let renamed = match result {
        Ok(()) => fs::rename(&partial, folder)
            .await
            .map_err(failed("rename", &partial)),
        Err(error) => Err(error),
    };
    let Err(error) = renamed else { return Ok(()) };
    let _ = fs::remove_dir_all(&partial).await;
    // Another process may have staged the same digest meanwhile: its folder is as good.
    if fs::try_exists(folder).await.unwrap_or(false) {
        Ok(())
    } else {
        Err(error)
    }
}

async fn fill(blobs: &Blobs, files: &[StoredFile], folder: &Path) -> Result<(), StagingError> {
    for file in files {
        let plain = Path::new(&file.name)
            .file_name()
            .is_some_and(|name| name == file.name.as_str());
        if !plain {
            return Err(StagingError::Name(file.name.clone()));
        }
        let key: BlobKey = file.key.parse()?;
        let digest: Sha256Digest = file.sha256.parse()?;
        let path = folder.join(&file.name);
        let fetched = blobs.get_to_file(&key, &path, Some(&digest)).await;
        fetched.map_err(|source| StagingError::Blob {
            name: file.name.clone(),
            source,
        })?;
    }
    let directory = fs::File::open(folder).await.map_err(failed("open", folder))?;
    directory.sync_all().await.map_err(failed("write", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    move |source| StagingError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
