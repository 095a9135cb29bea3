//! The S3 calls that the embedded server answers.

use std::{io::SeekFrom, sync::Arc};

use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, Checksum, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CompletedMultipartUpload, CreateBucketInput, CreateBucketOutput,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag,
        GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
        HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, Range,
        StreamingBlob, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use uuid::Uuid;

use super::{
    EMBEDDED_BUCKET,
    folder::{Object, ObjectFolder},
    receive::{Declared, receive},
};
use crate::BlobKey;

/// S3's limits for parts.
const LEAST_PART_BYTES: u64 = 5 * 1024 * 1024;
const MOST_PARTS: i32 = 10_000;
const MOST_LISTED: i32 = 1000;
const READ_BYTES: usize = 128 * 1024;

pub(super) struct EmbeddedService {
    folder: Arc<ObjectFolder>,
}

impl EmbeddedService {
    pub(super) fn new(folder: ObjectFolder) -> Self {
        Self {
            folder: Arc::new(folder),
        }
    }

    /// Runs file work on a thread that may block.
    async fn with_folder<T, F>(&self, work: F) -> S3Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&ObjectFolder) -> std::io::Result<T> + Send + 'static,
    {
        let folder = Arc::clone(&self.folder);
        tokio::task::spawn_blocking(move || work(&folder))
            .await
            .map_err(|error| s3_error!(error, InternalError))?
            .map_err(storage_error)
    }

    async fn open_upload(&self, upload_id: &str, key: &BlobKey) -> S3Result<Uuid> {
        let upload = Uuid::parse_str(upload_id).map_err(|_| s3_error!(NoSuchUpload))?;
        let wanted = key.clone();
        let open = self
            .with_folder(move |folder| Ok(folder.is_upload_of(upload, &wanted)))
            .await?;
        if open {
            Ok(upload)
        } else {
            Err(s3_error!(NoSuchUpload))
        }
    }
}

/// Only our bucket exists, and only keys of our grammar.
fn admit(bucket: &str, key: &str) -> S3Result<BlobKey> {
    admit_bucket(bucket)?;
    key.parse()
        .map_err(|_| s3_error!(InvalidArgument, "the key is not one that Tunesmith makes"))
}

fn admit_bucket(bucket: &str) -> S3Result<()> {
    if bucket == EMBEDDED_BUCKET {
        Ok(())
    } else {
        Err(s3_error!(NoSuchBucket))
    }
}

/// The details go to our log only.
pub(super) fn storage_error(error: std::io::Error) -> s3s::S3Error {
    tracing::error!(%error, "the object store's folder failed");
    s3_error!(error, InternalError)
}

#[async_trait::async_trait]
impl S3 for EmbeddedService {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        admit_bucket(&req.input.bucket)?;
        Err(s3_error!(BucketAlreadyOwnedByYou))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        admit_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let key = admit(&input.bucket, &input.key)?;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(NotImplemented, "conditional writes are not supported"));
        }
        let declared = Declared {
            algorithm: input.checksum_algorithm,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_crc64nvme: input.checksum_crc64nvme,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                ..Default::default()
            },
            trailers: req.trailing_headers,
        };
        let received = receive(&self.folder, input.body, declared).await?;
        let object = self
            .with_folder(move |folder| folder.publish(&received.incoming.0, &key))
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(object.etag())),
            checksum_crc32: received.checksum.checksum_crc32,
            ..Default::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let key = admit(&input.bucket, &input.key)?;
        let found = self.with_folder(move |folder| folder.read(&key)).await?;
        let (object, file) = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        let range = match input.range {
            Some(range) => range.check(object.bytes)?,
            None => 0..object.bytes,
        };
        let content_range = input
            .range
            .map(|_: Range| format!("bytes {}-{}/{}", range.start, range.end - 1, object.bytes));
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(range.start))
            .await
            .map_err(storage_error)?;
        let length = range.end - range.start;
        let body = tokio_util::io::ReaderStream::with_capacity(file.take(length), READ_BYTES);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(body)),
            content_length: Some(signed(length)),
            content_range,
            content_type: input.response_content_type,
            content_disposition: input.response_content_disposition,
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(object.modified.into()),
            e_tag: Some(ETag::Strong(object.etag())),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let key = admit(&req.input.bucket, &req.input.key)?;
        let found = self.with_folder(move |folder| folder.find(&key)).await?;
        let object = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(signed(object.bytes)),
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(object.modified.into()),
            e_tag: Some(ETag::Strong(object.etag())),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let key = admit(&req.input.bucket, &req.input.key)?;
        self.with_folder(move |folder| folder.remove(&key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        admit_bucket(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "delimiters are not supported"));
        }
        let prefix = input.prefix.clone().unwrap_or_default();
        admit_prefix(&prefix)?;
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone())
            .unwrap_or_default();
        let most = input.max_keys.unwrap_or(MOST_LISTED).clamp(0, MOST_LISTED);
        let mut objects = self
            .with_folder(move |folder| folder.list(&prefix, &after))
            .await?;
        let more = objects.len() > most as usize;
        objects.truncate(most as usize);
        let last = objects.last().map(|object| object.key.to_string());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(objects.len()).ok(),
            max_keys: Some(most),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            contents: Some(objects.into_iter().map(listed).collect()),
            continuation_token: input.continuation_token,
            name: Some(input.bucket),
            prefix: input.prefix,
            start_after: input.start_after,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let key = admit(&input.bucket, &input.key)?;
        let upload = self.with_folder(move |folder| folder.begin_upload(&key)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload.simple().to_string()),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let key = admit(&input.bucket, &input.key)?;
        let number = input.part_number;
        if !(1..=MOST_PARTS).contains(&number) {
            return Err(s3_error!(
                InvalidArgument,
                "a part's number is from 1 to {MOST_PARTS}"
            ));
        }
        let upload = self.open_upload(&input.upload_id, &key).await?;
        let declared = Declared {
            algorithm: input.checksum_algorithm,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_crc64nvme: input.checksum_crc64nvme,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                ..Default::default()
            },
            trailers: req.trailing_headers,
        };
        let received = receive(&self.folder, input.body, declared).await?;
        let etag = received.part_etag();
        let name = etag.clone();
        self.with_folder(move |folder| folder.add_part(upload, number, &name, &received.incoming.0))
            .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: received.checksum.checksum_crc32,
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let key = admit(&input.bucket, &input.key)?;
        let upload = self.open_upload(&input.upload_id, &key).await?;
        let wanted = wanted_parts(input.multipart_upload)?;
        let found = self
            .with_folder(move |folder| Ok(folder.parts(upload, &wanted)))
            .await?;
        let parts = found.ok_or_else(|| s3_error!(InvalidPart))?;
        if parts
            .iter()
            .rev()
            .skip(1)
            .any(|(_, bytes)| *bytes < LEAST_PART_BYTES)
        {
            return Err(s3_error!(EntityTooSmall));
        }
        let object = self
            .with_folder(move |folder| folder.join(upload, &key, &parts))
            .await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(object.etag())),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let key = admit(&req.input.bucket, &req.input.key)?;
        let upload = self.open_upload(&req.input.upload_id, &key).await?;
        self.with_folder(move |folder| folder.abort_upload(upload))
            .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// The parts that a client wants joined, by number and etag.
fn wanted_parts(upload: Option<CompletedMultipartUpload>) -> S3Result<Vec<(i32, String)>> {
    let parts = upload.and_then(|upload| upload.parts).unwrap_or_default();
    let mut wanted = Vec::with_capacity(parts.len());
    for part in parts {
        let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
        let etag = part.e_tag.ok_or_else(|| s3_error!(InvalidPart))?.into_value();
        if !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(s3_error!(InvalidPart));
        }
        wanted.push((number, etag));
    }
    if wanted.is_empty() {
        return Err(s3_error!(InvalidPart, "an upload has at least one part"));
    }
    if !wanted.is_sorted_by(|left, right| left.0 < right.0) {
        return Err(s3_error!(InvalidPartOrder));
    }
    Ok(wanted)
}

/// A prefix names only places within the folder.
fn admit_prefix(prefix: &str) -> S3Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
    let segments = prefix.split('/').rev().skip(1);
    let inside = segments
        .into_iter()
        .all(|segment| !segment.is_empty() && segment.trim_matches('.') == segment);
    if prefix.bytes().all(plain) && inside {
        Ok(())
    } else {
        Err(s3_error!(
            InvalidArgument,
            "the prefix is not one that Tunesmith makes"
        ))
    }
}

fn listed(object: Object) -> s3s::dto::Object {
    s3s::dto::Object {
        key: Some(object.key.to_string()),
        size: Some(signed(object.bytes)),
        last_modified: Some(object.modified.into()),
        e_tag: Some(ETag::Strong(object.etag())),
        ..Default::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
