//! What a server must do before the platform trusts it with blobs; run at every start.

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;

use crate::{BlobError, BlobKey, BlobPrefix, Blobs, upload::PART_BYTES};

/// CRC32 of something other than [`SAMPLE`].
const WRONG_CRC32: &str = "AAAAAA==";
const SAMPLE: &[u8] = b"tunesmith self-test";

impl Blobs {
    /// Checks that the bucket exists and that the server reads what was just written, lists it, forgets what was
    /// deleted, joins parts, and refuses bytes with a wrong checksum. Leaves nothing behind.
    ///
    /// # Errors
    /// [`BlobError::SelfTest`] names the promise that the server breaks.
    pub async fn self_test(&self) -> Result<(), BlobError> {
        promise("keeps one bucket", self.ensure_bucket().await)?;
        let key = BlobKey::self_test();
        let outcome = self.check_promises(&key).await;
        let removed = promise("deletes a blob", self.delete(&key).await);
        outcome?;
        removed?;
        let head = promise("answers for a deleted blob", self.head(&key).await)?;
        require("forgets a deleted blob", head.is_none())
    }

    async fn check_promises(&self, key: &BlobKey) -> Result<(), BlobError> {
        promise("stores a blob", self.put_bytes(key, SAMPLE).await)?;
        let read = promise("reads a blob", self.get_bytes(key, 1024).await)?;
        require("reads what was just written", read == SAMPLE)?;
        let listed = promise("lists blobs", self.list(&BlobPrefix::self_test()).await)?;
        require(
            "lists what was just written",
            listed.iter().any(|entry| entry.key == *key),
        )?;
        require(
            "refuses a body with a wrong checksum",
            self.wrong_checksum_is_refused(key).await,
        )?;
        let read = promise("reads a blob", self.get_bytes(key, 1024).await)?;
        require("keeps the old bytes when it refuses new ones", read == SAMPLE)?;
        self.check_multipart(key).await
    }

    async fn wrong_checksum_is_refused(&self, key: &BlobKey) -> bool {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .checksum_crc32(WRONG_CRC32)
            .body(ByteStream::from_static(b"other bytes"))
            .send()
            .await
            .is_err()
    }

    /// Two parts with checksums, as every long upload sends them; the second is a single byte.
    async fn check_multipart(&self, key: &BlobKey) -> Result<(), BlobError> {
        let whole = Bytes::from(vec![7_u8; PART_BYTES + 1]);
        let stored = promise("joins the parts of an upload", self.put_bytes(key, whole).await)?;
        let head = promise("answers for a joined blob", self.head(key).await)?;
        require(
            "joins all parts",
            head.map(|info| info.bytes) == Some(stored.bytes),
        )?;
        let end = stored.bytes - 2..stored.bytes;
        let body = promise("reads a range", self.get_stream(key, Some(end)).await)?;
        require("reads only the range", body.bytes == 2)?;
        require(
            "refuses an upload with a wrong part",
            self.wrong_part_is_refused(key).await,
        )
    }

    async fn wrong_part_is_refused(&self, key: &BlobKey) -> bool {
        let client = &self.client;
        let begun = client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .send()
            .await;
        let Ok(Some(upload_id)) = begun.map(|answer| answer.upload_id) else {
            return false;
        };
        let part = CompletedPart::builder()
            .part_number(1)
            .e_tag("\"00000000000000000000000000000000\"")
            .build();
        let completed = client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload_id)
            .multipart_upload(CompletedMultipartUpload::builder().parts(part).build())
            .send()
            .await;
        let aborted = client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload_id)
            .send()
            .await;
        completed.is_err() && aborted.is_ok()
    }
}

fn promise<T>(promise: &'static str, outcome: Result<T, BlobError>) -> Result<T, BlobError> {
    outcome.map_err(|error| BlobError::SelfTest {
        promise,
        source: Some(Box::new(error)),
    })
}

fn require(promise: &'static str, kept: bool) -> Result<(), BlobError> {
    if kept {
        Ok(())
    } else {
        Err(BlobError::SelfTest {
            promise,
            source: None,
        })
    }
}
