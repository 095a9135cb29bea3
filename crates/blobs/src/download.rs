//! Reading bodies: as a stream, into memory, or into a verified file.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    pin::Pin,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tunesmith_types::names::Sha256Digest;

use crate::{
    BlobError, BlobKey, Blobs,
    client::length,
    error::BoxError,
    upload::{StoredBlob, digest},
};

/// Requests made for one file where bodies break off; each goes on from the byte that the last one reached.
const BODY_ATTEMPTS: u32 = 4;

/// The bytes of a blob as they come.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

/// A blob, or the asked part of it, on its way.
pub struct BlobBody {
    /// Length of what the stream yields.
    pub bytes: u64,
    /// The bytes; dropped early, the transfer ends.
    pub stream: BlobStream,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BlobBody")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Blobs {
    /// The blob, or its bytes in `range`, as a stream; the next piece is fetched only when it is asked for.
    ///
    /// # Errors
    /// There is no such blob, the range begins behind its end, or the server refuses.
    pub async fn get_stream(&self, key: &BlobKey, range: Option<Range<u64>>) -> Result<BlobBody, BlobError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(BlobBody {
                bytes: 0,
                stream: Box::pin(futures::stream::empty()),
            });
        }
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        self.get_with_range_header(key, range).await
    }

    async fn get_with_range_header(
        &self,
        key: &BlobKey,
        range: Option<String>,
    ) -> Result<BlobBody, BlobError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_range(range)
            .send()
            .await
            .map_err(|error| BlobError::request("GetObject", key.as_str(), error))?;
        let bytes = length(answer.content_length());
        let target = key.to_string();
        let stream = futures::stream::try_unfold(answer.body, move |mut body| {
            let target = target.clone();
            async move {
                match body.next().await {
                    None => Ok(None),
                    Some(Ok(piece)) => Ok(Some((piece, body))),
                    Some(Err(error)) => Err(broken_body(target, Box::new(error))),
                }
            }
        });
        Ok(BlobBody {
            bytes,
            stream: Box::pin(stream),
        })
    }

    /// The whole blob in memory.
    ///
    /// # Errors
    /// It has more than `limit` bytes, or cannot be read.
    pub async fn get_bytes(&self, key: &BlobKey, limit: u64) -> Result<Bytes, BlobError> {
        let too_large = || BlobError::TooLarge {
            key: key.to_string(),
            limit,
        };
        let mut body = self.get_stream(key, None).await?;
        if body.bytes > limit {
            return Err(too_large());
        }
        let mut held = BytesMut::with_capacity(usize::try_from(body.bytes).map_err(|_| too_large())?);
        while let Some(piece) = body.stream.next().await {
            held.extend_from_slice(&piece?);
            if held.len() as u64 > limit {
                return Err(too_large());
            }
        }
        if (held.len() as u64) < body.bytes {
            return Err(broken_body(key.to_string(), "the body ended early".into()));
        }
        Ok(held.freeze())
    }

    /// Writes the blob to `path`, which appears only when every byte is there, on disk, and the sha256 is `expected`
    /// (where one is given). A body that breaks off is asked for again from where it ended.
    ///
    /// # Errors
    /// [`BlobError::DigestMismatch`], a full disk, or the server's refusal; `path` is then as it was.
    pub async fn get_to_file(
        &self,
        key: &BlobKey,
        path: &Path,
        expected: Option<&Sha256Digest>,
    ) -> Result<StoredBlob, BlobError> {
        let partial = PartialFile::create(path).await?;
        let mut download = Download {
            file: partial.open().await?,
            path: partial.path.clone(),
            sha256: Sha256::new(),
            bytes: 0,
        };
        let mut attempt = 1;
        while let Err(error) = self.fetch_rest(key, &mut download).await {
            if attempt == BODY_ATTEMPTS || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(%key, %error, from = download.bytes, "a body broke off; asking for the rest");
            attempt += 1;
        }
        let Download {
            file, sha256, bytes, ..
        } = download;
        let sha256 = digest(sha256);
        if let Some(expected) = expected
            && *expected != sha256
        {
            return Err(BlobError::DigestMismatch {
                key: key.to_string(),
                expected: expected.to_string(),
                actual: sha256.to_string(),
            });
        }
        file.sync_all().await.map_err(BlobError::file("write", path))?;
        partial.keep_as(path).await?;
        Ok(StoredBlob { bytes, sha256 })
    }

    /// Appends what is still missing.
    async fn fetch_rest(&self, key: &BlobKey, download: &mut Download) -> Result<(), BlobError> {
        let range = (download.bytes > 0).then(|| format!("bytes={}-", download.bytes));
        let mut body = self.get_with_range_header(key, range).await?;
        let end = download.bytes + body.bytes;
        while let Some(piece) = body.stream.next().await {
            download.append(&piece?).await?;
        }
        download.flush().await?;
        if download.bytes < end {
            return Err(broken_body(key.to_string(), "the body ended early".into()));
        }
        Ok(())
    }
}

fn broken_body(target: String, source: BoxError) -> BlobError {
    BlobError::Request {
        operation: "GetObject",
        target,
        reason: "the body broke off".to_owned(),
        source,
    }
}

struct Download {
    file: tokio::fs::File,
    path: PathBuf,
    sha256: Sha256,
    bytes: u64,
}

impl Download {
    async fn append(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.file
            .write_all(piece)
            .await
            .map_err(BlobError::file("write", &self.path))?;
        self.sha256.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        self.file
            .flush()
            .await
            .map_err(BlobError::file("write", &self.path))
    }
}

/// A file beside its later name; removed where it is not kept.
struct PartialFile {
    path: PathBuf,
}

impl PartialFile {
    async fn create(final_path: &Path) -> Result<Self, BlobError> {
        let folder = final_path.parent().unwrap_or_else(|| Path::new("."));
        tokio::fs::create_dir_all(folder)
            .await
            .map_err(BlobError::file("create", folder))?;
        let name = format!(".partial-{}", uuid::Uuid::new_v4().simple());
        Ok(Self {
            path: folder.join(name),
        })
    }

    async fn open(&self) -> Result<tokio::fs::File, BlobError> {
        tokio::fs::File::create_new(&self.path)
            .await
            .map_err(BlobError::file("create", &self.path))
    }

    async fn keep_as(&self, final_path: &Path) -> Result<(), BlobError> {
        tokio::fs::rename(&self.path, final_path)
            .await
            .map_err(BlobError::file("create", final_path))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Gone after a rename; where it still lies there, the download failed and nobody wants its bytes.
        let _ = std::fs::remove_file(&self.path);
    }
}
