//! Files from S3 to this machine's disk, where engines open them. A folder is named after its digest and appears whole
//! or not at all, and its files are read-only.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
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
    #[error("the adapter cannot be brought into the form that the replica reads: {0}")]
    Form(String),
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
            Self::Name(_) | Self::Key(_) | Self::Digest(_) | Self::Form(_) => true,
        }
    }
}

/// Brings `files` into `folder`, each verified against its sha256. Does nothing where the folder is there and whole.
pub(crate) async fn stage(blobs: &Blobs, files: &[StoredFile], folder: &Path) -> Result<(), StagingError> {
    if is_whole(files, folder).await {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    let partial = parent.join(format!("{}.partial", Uuid::new_v4().simple()));
    fs::create_dir_all(&partial)
        .await
        .map_err(failed("create", &partial))?;
    let result = match fill(blobs, files, &partial).await {
        // Another task was faster, for another replica, which may be reading what it made.
        Ok(()) if is_whole(files, folder).await => {
            let _ = remove(&partial).await;
            return Ok(());
        }
        Ok(()) => publish(files.iter().map(|file| file.name.as_str()), &partial, folder).await,
        Err(error) => Err(error),
    };
    let Err(error) = result else { return Ok(()) };
    let _ = remove(&partial).await;
    // Another process may have staged the same digest meanwhile: its folder is as good.
    if is_whole(files, folder).await {
        Ok(())
    } else {
        Err(error)
    }
}

/// Whether the folder has every file in its full length. It appeared in one rename, so this only finds what somebody
/// damaged afterwards.
async fn is_whole(files: &[StoredFile], folder: &Path) -> bool {
    for file in files {
        match fs::metadata(folder.join(&file.name)).await {
            Ok(metadata) if metadata.is_file() && metadata.len() == file.bytes => {}
            _ => return false,
        }
    }
    true
}

/// Makes the filled folder read-only and gives it its name, in place of a damaged one.
pub(crate) async fn publish(
    names: impl Iterator<Item = &str>,
    partial: &Path,
    folder: &Path,
) -> Result<(), StagingError> {
    for name in names {
        let path = partial.join(name);
        let read_only = Permissions::from_mode(0o444);
        fs::set_permissions(&path, read_only)
            .await
            .map_err(failed("protect", &path))?;
    }
    if fs::try_exists(folder).await.unwrap_or(false) {
        remove(folder).await.map_err(failed("remove", folder))?;
    }
    fs::rename(partial, folder)
        .await
        .map_err(failed("rename", partial))?;
    let parent = folder.parent().unwrap_or(Path::new("."));
    let directory = fs::File::open(parent).await.map_err(failed("open", parent))?;
    directory.sync_all().await.map_err(failed("write", parent))
}

/// Removes a folder at once: whoever looks sees all of it or nothing.
pub(crate) async fn remove(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    let doomed = parent.join(format!("{}.removed", Uuid::new_v4().simple()));
    fs::rename(folder, &doomed).await?;
    fs::remove_dir_all(&doomed).await
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

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    move |source| StagingError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
