//! Storing bodies of any length in bounded memory.

use std::{collections::BTreeMap, path::Path, pin::pin};

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tunesmith_types::names::Sha256Digest;

use crate::{BlobError, BlobKey, Blobs, error::BoxError};

/// Length of every part but the last. S3 wants at least 5 MiB, and takes at most 10,000 parts.
pub(crate) const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts on their way at a time. With the one being filled, and the copies that the client makes for checksums, an upload
/// stays below 64 MiB.
const PARTS_IN_FLIGHT: usize = 1;
/// S3's limit.
const MOST_PARTS: i32 = 10_000;
/// A body that has not yet shown to be longer does not get a whole part's memory.
const SMALL_BYTES: u64 = 256 * 1024;
/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 * 1024;

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Length.
    pub bytes: u64,
    /// Of all bytes, computed while they went by.
    pub sha256: Sha256Digest,
}

impl Blobs {
    /// Stores what `body` yields. The next piece is asked for only when there is room for it, so that memory does not
    /// grow with the body. Where the body ends with an error, or the future is dropped, nothing is stored.
    ///
    /// # Errors
    /// [`BlobError::Source`] with the body's own error, or the server's refusal.
    pub async fn put_stream<S, E>(&self, key: &BlobKey, body: S) -> Result<StoredBlob, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<BoxError>,
    {
        let mut body = pin!(body);
        let mut hash = BodyHash::default();
        let mut part = BytesMut::new();
        let mut upload: Option<MultipartUpload> = None;
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|error| BlobError::Source {
                key: key.to_string(),
                source: error.into(),
            })?;
            hash.update(&piece);
            while !piece.is_empty() {
                if part.is_empty() && hash.bytes > SMALL_BYTES {
                    // At once, not by doubling, which would leave pieces of every size to the allocator.
                    part = BytesMut::with_capacity(PART_BYTES);
                }
                let room = PART_BYTES - part.len();
                part.extend_from_slice(&piece.split_to(piece.len().min(room)));
                if part.len() == PART_BYTES {
                    if upload.is_none() {
                        upload = Some(MultipartUpload::begin(self, key).await?);
                    }
                    let upload = upload.as_mut().expect("invariant: the upload was just begun");
                    upload.send(part.split().freeze()).await?;
                }
            }
        }
        match upload {
            None => self.put_object(key, part.freeze()).await?,
            Some(mut upload) => {
                if !part.is_empty() {
                    upload.send(part.freeze()).await?;
                }
                upload.complete().await?;
            }
        }
        Ok(hash.finish())
    }

    /// Stores the present bytes of a file.
    ///
    /// # Errors
    /// The file cannot be read, or the server refuses.
    pub async fn put_file(&self, key: &BlobKey, path: &Path) -> Result<StoredBlob, BlobError> {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(BlobError::file("read", path))?;
        let body = tokio_util::io::ReaderStream::with_capacity(file, READ_BYTES);
        match self.put_stream(key, body).await {
            Err(BlobError::Source { source, .. }) if source.is::<std::io::Error>() => {
                let source = *source.downcast().expect("invariant: the type was just checked");
                Err(BlobError::file("read", path)(source))
            }
            other => other,
        }
    }

    /// Stores bytes that are in memory.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn put_bytes(
        &self,
        key: &BlobKey,
        bytes: impl Into<Bytes> + Send,
    ) -> Result<StoredBlob, BlobError> {
        let piece: Result<Bytes, std::convert::Infallible> = Ok(bytes.into());
        self.put_stream(key, futures::stream::iter([piece])).await
    }

    async fn put_object(&self, key: &BlobKey, bytes: Bytes) -> Result<(), BlobError> {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map(drop)
            .map_err(|error| BlobError::request("PutObject", key.as_str(), error))
    }
}

#[derive(Default)]
struct BodyHash {
    sha256: Sha256,
    bytes: u64,
}

impl BodyHash {
    fn update(&mut self, piece: &[u8]) {
        self.sha256.update(piece);
        self.bytes += piece.len() as u64;
    }

    fn finish(self) -> StoredBlob {
        StoredBlob {
            bytes: self.bytes,
            sha256: digest(self.sha256),
        }
    }
}

/// The digest of what was hashed.
pub(crate) fn digest(hash: Sha256) -> Sha256Digest {
    hex::encode(hash.finalize())
        .parse()
        .expect("invariant: a sha256 in hex is 64 digits")
}

/// A multipart upload under way; dropped before it is complete, it is aborted.
struct MultipartUpload {
    blobs: Blobs,
    key: BlobKey,
    upload_id: String,
    sent: i32,
    in_flight: JoinSet<Result<(i32, CompletedPart), BlobError>>,
    done: BTreeMap<i32, CompletedPart>,
    open: bool,
}

impl MultipartUpload {
    async fn begin(blobs: &Blobs, key: &BlobKey) -> Result<Self, BlobError> {
        // Garage refuses to complete an upload whose parts carry checksums that were not announced here.
        let answer = blobs
            .client
            .create_multipart_upload()
            .bucket(&blobs.bucket)
            .key(key.as_str())
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .send()
            .await
            .map_err(|error| BlobError::request("CreateMultipartUpload", key.as_str(), error))?;
        Ok(Self {
            blobs: blobs.clone(),
            key: key.clone(),
            upload_id: answer.upload_id().unwrap_or_default().to_owned(),
            sent: 0,
            in_flight: JoinSet::new(),
            done: BTreeMap::new(),
            open: true,
        })
    }

    /// Sends the next part; waits while as many as may be are on their way.
    async fn send(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.sent == MOST_PARTS {
            let limit = PART_BYTES as u64 * u64::from(MOST_PARTS.unsigned_abs());
            return Err(BlobError::TooLarge {
                key: self.key.to_string(),
                limit,
            });
        }
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.collect_one().await?;
        }
        self.sent += 1;
        let number = self.sent;
        let request = self
            .blobs
            .client
            .upload_part()
            .bucket(&self.blobs.bucket)
            .key(self.key.as_str())
            .upload_id(&self.upload_id)
            .part_number(number)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(bytes));
        let key = self.key.clone();
        self.in_flight.spawn(async move {
            let answer = request
                .send()
                .await
                .map_err(|error| BlobError::request("UploadPart", key.as_str(), error))?;
            let part = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(answer.e_tag)
                .set_checksum_crc32(answer.checksum_crc32)
                .build();
            Ok((number, part))
        });
        Ok(())
    }

    async fn collect_one(&mut self) -> Result<(), BlobError> {
        if let Some(finished) = self.in_flight.join_next().await {
            let (number, part) = finished.expect("invariant: a part's task neither panics nor is aborted")?;
            self.done.insert(number, part);
        }
        Ok(())
    }

    async fn complete(mut self) -> Result<(), BlobError> {
        while !self.in_flight.is_empty() {
            self.collect_one().await?;
        }
        let parts = std::mem::take(&mut self.done).into_values().collect();
        self.blobs
            .client
            .complete_multipart_upload()
            .bucket(&self.blobs.bucket)
            .key(self.key.as_str())
            .upload_id(&self.upload_id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .send()
            .await
            .map_err(|error| BlobError::request("CompleteMultipartUpload", self.key.as_str(), error))?;
        self.open = false;
        Ok(())
    }
}

impl Drop for MultipartUpload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        self.in_flight.abort_all();
        let abort = self
            .blobs
            .client
            .abort_multipart_upload()
            .bucket(&self.blobs.bucket)
            .key(self.key.as_str())
            .upload_id(&self.upload_id);
        let key = self.key.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = abort.send().await {
                    tracing::warn!(%key, %error, "could not abort an unfinished upload");
                }
            });
        }
    }
}
