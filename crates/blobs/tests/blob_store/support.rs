//! Servers and bodies.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::stream;
use tempfile::TempDir;
use tunesmith_blobs::{BlobKey, BlobSettings, Blobs, S3Credentials, embedded::EmbeddedS3, keys::RunPlace};
use tunesmith_types::ids::{DatasetId, JobId, OrganizationId};
use uuid::Uuid;

pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) struct Server {
    pub(crate) embedded: EmbeddedS3,
    pub(crate) folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let credentials = S3Credentials {
            access_key_id: "tunesmith".into(),
            secret_access_key: Uuid::new_v4().to_string(),
        };
        let embedded = EmbeddedS3::start(folder.path(), credentials, 0).await.unwrap();
        Self { embedded, folder }
    }

    pub(crate) async fn client(&self) -> Blobs {
        Blobs::connect(&self.embedded.settings()).await
    }

    /// Files under a folder of the server, at any depth.
    pub(crate) fn files(&self, folder: &str) -> usize {
        let mut waiting = vec![self.folder.path().join(folder)];
        let mut files = 0;
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path)
                } else {
                    files += 1
                }
            }
        }
        files
    }
}

pub(crate) fn external() -> Option<BlobSettings> {
    let variable = |name: &str| std::env::var(name).ok();
    Some(BlobSettings {
        endpoint: Some(variable("S3_ENDPOINT")?),
        bucket: variable("S3_BUCKET")?,
        region: variable("S3_REGION").unwrap_or_else(|| "us-east-1".into()),
        credentials: Some(S3Credentials {
            access_key_id: variable("AWS_ACCESS_KEY_ID")?,
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
        }),
    })
}

/// Runs a check of the suite against every server that there is.
pub(crate) async fn on_every_server<F: AsyncFn(Blobs)>(check: F) {
    let server = Server::start().await;
    check(server.client().await).await;
    server.embedded.stop().await;
    if let Some(settings) = external() {
        let blobs = Blobs::connect(&settings).await;
        blobs.ensure_bucket().await.unwrap();
        check(blobs).await;
    }
}

pub(crate) fn dataset_key() -> BlobKey {
    BlobKey::dataset(OrganizationId::new(), DatasetId::new())
}

pub(crate) fn run() -> RunPlace {
    RunPlace {
        job: JobId::new(),
        epoch: 1,
        lease: Uuid::new_v4(),
    }
}

/// Bytes that differ from place to place, so that parts in a wrong order are seen.
pub(crate) fn sample(length: usize) -> Bytes {
    (0..length)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect::<Vec<u8>>()
        .into()
}

pub(crate) fn pieces(bytes: &Bytes, length: usize) -> Vec<Result<Bytes, Infallible>> {
    bytes
        .chunks(length)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect()
}

pub(crate) fn received_stream(
    receiver: tokio::sync::mpsc::Receiver<Result<Bytes, Infallible>>,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}

/// Waits for something that happens by itself; the test's own timeout is the limit.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
