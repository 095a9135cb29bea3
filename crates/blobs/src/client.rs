//! The client: connection, and the calls that move no bodies.

use std::time::Duration;

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    presigning::PresigningConfig,
    types::{BucketLocationConstraint, CreateBucketConfiguration},
};

use crate::{BlobError, BlobKey, BlobPrefix, BlobSettings};

/// Longest that one attempt of one request may take; a part is 8 MiB.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);
/// Tries of one request, the first included.
const ATTEMPTS: u32 = 5;
/// Longest life of a presigned address, which is S3's own limit.
const LONGEST_PRESIGN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The one bucket of an S3-compatible server. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Blobs {
    pub(crate) client: Client,
    pub(crate) bucket: String,
    region: String,
}

/// What the server says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Length.
    pub bytes: u64,
}

/// A blob in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its key.
    pub key: BlobKey,
    /// Length.
    pub bytes: u64,
}

impl Blobs {
    /// A client for the server of `settings`; no request is made yet.
    pub async fn connect(settings: &BlobSettings) -> Self {
        let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut config = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .retry_config(retries)
            .timeout_config(timeouts);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        config = match &settings.credentials {
            Some(pair) => config.credentials_provider(Credentials::new(
                &pair.access_key_id,
                &pair.secret_access_key,
                None,
                None,
                "tunesmith",
            )),
            None => {
                let region = Region::new(settings.region.clone());
                let chain = aws_config::defaults(BehaviorVersion::latest())
                    .region(region)
                    .load()
                    .await;
                config.set_credentials_provider(chain.credentials_provider());
                config
            }
        };
        Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            region: settings.region.clone(),
        }
    }

    /// Makes the bucket where it is missing.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn ensure_bucket(&self) -> Result<(), BlobError> {
        let head = self.client.head_bucket().bucket(&self.bucket).send().await;
        match head.map_err(|error| BlobError::request("HeadBucket", &self.bucket, error)) {
            Ok(_) => return Ok(()),
            Err(BlobError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut request = self.client.create_bucket().bucket(&self.bucket);
        if self.region != "us-east-1" {
            let place = CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(self.region.as_str()))
                .build();
            request = request.create_bucket_configuration(place);
        }
        match request
            .send()
            .await
            .map_err(|error| BlobError::request("CreateBucket", &self.bucket, error))
        {
            Err(BlobError::Request { reason, .. }) if reason == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Length of a blob, or none where there is no such blob.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn head(&self, key: &BlobKey) -> Result<Option<BlobInfo>, BlobError> {
        let answer = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .send()
            .await;
        match answer.map_err(|error| BlobError::request("HeadObject", key.as_str(), error)) {
            Ok(head) => Ok(Some(BlobInfo {
                bytes: length(head.content_length()),
            })),
            Err(BlobError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob; one that is not there is as good as removed.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let answer = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .send()
            .await;
        match answer.map_err(|error| BlobError::request("DeleteObject", key.as_str(), error)) {
            Ok(_) | Err(BlobError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All blobs whose key begins with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or names a key outside our grammar.
    pub async fn list(&self, prefix: &BlobPrefix) -> Result<Vec<BlobEntry>, BlobError> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix.as_str())
            .into_paginator()
            .send();
        let mut entries = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| BlobError::request("ListObjectsV2", prefix.as_str(), error))?;
            for object in page.contents() {
                entries.push(BlobEntry {
                    key: object.key().unwrap_or_default().parse()?,
                    bytes: length(object.size()),
                });
            }
        }
        Ok(entries)
    }

    /// Removes all blobs whose key begins with `prefix`; gives their number.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached; some blobs may be gone by then.
    pub async fn delete_all(&self, prefix: &BlobPrefix) -> Result<usize, BlobError> {
        let entries = self.list(prefix).await?;
        for entry in &entries {
            self.delete(&entry.key).await?;
        }
        Ok(entries.len())
    }

    /// An address under which anybody can read the blob until `expires` has passed (at most 7 days). Browsers save
    /// it as `file_name`, of which only letters, digits, `.`, `_`, `-` and `@` are kept.
    ///
    /// # Errors
    /// There are no credentials to sign with.
    pub async fn presign_get(
        &self,
        key: &BlobKey,
        expires: Duration,
        file_name: Option<&str>,
    ) -> Result<String, BlobError> {
        let failed = |reason: &str, source: crate::error::BoxError| BlobError::Request {
            operation: "presigned GetObject",
            target: key.to_string(),
            reason: reason.to_owned(),
            source,
        };
        let expires = PresigningConfig::expires_in(expires.clamp(Duration::from_secs(1), LONGEST_PRESIGN))
            .map_err(|error| failed("the expiry is out of range", Box::new(error)))?;
        let disposition = file_name.map(|name| format!("attachment; filename=\"{}\"", plain_file_name(name)));
        self.client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_response_content_disposition(disposition)
            .presigned(expires)
            .await
            .map(|request| request.uri().to_owned())
            .map_err(|error| failed("the address cannot be signed", Box::new(error)))
    }
}

/// A length as S3 states it; absent or negative is 0.
pub(crate) fn length(stated: Option<i64>) -> u64 {
    stated.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

fn plain_file_name(name: &str) -> String {
    let kept =
        |character: &char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '@');
    name.chars().filter(kept).take(128).collect()
}
