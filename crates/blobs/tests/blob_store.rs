//! One suite for every S3-compatible server: the embedded one always, and the one that `S3_ENDPOINT`, `S3_BUCKET`,
//! `S3_REGION`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` name where they are set.
#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tempfile::TempDir;
use tunesmith_blobs::{
    BlobError, BlobKey, BlobPrefix, BlobSettings, Blobs, S3Credentials, embedded::EmbeddedS3, keys::RunPlace,
};
use tunesmith_types::{
    ids::{BaseModelId, DatasetId, JobId, OrganizationId},
    names::Sha256Digest,
};
use uuid::Uuid;

const MIB: usize = 1024 * 1024;

struct Server {
    embedded: EmbeddedS3,
    folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let credentials = S3Credentials {
            access_key_id: "tunesmith".into(),
            secret_access_key: Uuid::new_v4().to_string(),
        };
        let embedded = EmbeddedS3::start(folder.path(), credentials, 0).await.unwrap();
        Self { embedded, folder }
    }

    async fn client(&self) -> Blobs {
        Blobs::connect(&self.embedded.settings()).await
    }

    /// Files under a folder of the server, at any depth.
    fn files(&self, folder: &str) -> usize {
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

fn external() -> Option<BlobSettings> {
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
async fn on_every_server<F: AsyncFn(Blobs)>(check: F) {
    let server = Server::start().await;
    check(server.client().await).await;
    server.embedded.stop().await;
    if let Some(settings) = external() {
        let blobs = Blobs::connect(&settings).await;
        blobs.ensure_bucket().await.unwrap();
        check(blobs).await;
    }
}

fn dataset_key() -> BlobKey {
    BlobKey::dataset(OrganizationId::new(), DatasetId::new())
}

fn run() -> RunPlace {
    RunPlace {
        job: JobId::new(),
        epoch: 1,
        lease: Uuid::new_v4(),
    }
}

/// Bytes that differ from place to place, so that parts in a wrong order are seen.
fn sample(length: usize) -> Bytes {
    (0..length)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect::<Vec<u8>>()
        .into()
}

fn pieces(bytes: &Bytes, length: usize) -> Vec<Result<Bytes, Infallible>> {
    bytes
        .chunks(length)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect()
}

mod blob_store_suite {
    use super::*;

    #[tokio::test]
    async fn the_self_test_passes_and_leaves_nothing() {
        on_every_server(async |blobs| {
            blobs.self_test().await.unwrap();
            blobs.self_test().await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn bodies_of_every_length_come_back() {
        on_every_server(async |blobs| {
            for length in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB] {
                let key = dataset_key();
                let bytes = sample(length);
                let stored = blobs
                    .put_stream(&key, stream::iter(pieces(&bytes, 700_001)))
                    .await
                    .unwrap();
                assert_eq!(stored.bytes, length as u64);
                assert_eq!(blobs.head(&key).await.unwrap().unwrap().bytes, length as u64);
                let read = blobs.get_bytes(&key, length as u64).await.unwrap();
                assert!(read == bytes, "{length} bytes differ");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_stated_digest_is_the_sha256() {
        on_every_server(async |blobs| {
            let stored = blobs.put_bytes(&dataset_key(), "abc").await.unwrap();
            let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            assert_eq!(stored.sha256.as_str(), expected);
        })
        .await;
    }

    #[tokio::test]
    async fn ranges_are_exact() {
        on_every_server(async |blobs| {
            let key = dataset_key();
            let bytes = sample(100_000);
            blobs.put_bytes(&key, bytes.clone()).await.unwrap();
            for range in [0..1, 99_999..100_000, 40_000..60_000, 0..100_000, 7..7] {
                let body = blobs.get_stream(&key, Some(range.clone())).await.unwrap();
                assert_eq!(body.bytes, range.end - range.start);
                let read: Vec<Bytes> = body.stream.map(Result::unwrap).collect().await;
                let wanted = &bytes[range.start as usize..range.end as usize];
                assert!(read.concat() == wanted, "{range:?}");
            }
            assert!(blobs.get_stream(&key, Some(100_000..100_001)).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_missing_is_not_found() {
        on_every_server(async |blobs| {
            let key = dataset_key();
            assert!(blobs.head(&key).await.unwrap().is_none());
            assert!(matches!(
                blobs.get_bytes(&key, 1).await,
                Err(BlobError::NotFound { .. })
            ));
            blobs.delete(&key).await.unwrap();
            blobs.put_bytes(&key, "x").await.unwrap();
            blobs.delete(&key).await.unwrap();
            assert!(blobs.head(&key).await.unwrap().is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn a_limit_is_kept() {
        on_every_server(async |blobs| {
            let key = dataset_key();
            blobs.put_bytes(&key, "four").await.unwrap();
            assert!(matches!(
                blobs.get_bytes(&key, 3).await,
                Err(BlobError::TooLarge { limit: 3, .. })
            ));
            assert_eq!(blobs.get_bytes(&key, 4).await.unwrap(), "four");
        })
        .await;
    }

    #[tokio::test]
    async fn listings_hold_one_folder_and_all_its_pages() {
        on_every_server(async |blobs| {
            let organization = OrganizationId::new();
            let mut keys: Vec<BlobKey> = (0..7)
                .map(|_| BlobKey::dataset(organization, DatasetId::new()))
                .collect();
            for key in &keys {
                blobs.put_bytes(key, "line\n").await.unwrap();
            }
            blobs
                .put_bytes(&dataset_key(), "another organization's")
                .await
                .unwrap();
            keys.sort();
            let listed = blobs.list(&BlobPrefix::datasets(organization)).await.unwrap();
            assert_eq!(
                listed.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(),
                keys
            );
            assert!(listed.iter().all(|entry| entry.bytes == 5));
            assert_eq!(
                blobs
                    .delete_all(&BlobPrefix::datasets(organization))
                    .await
                    .unwrap(),
                7
            );
            assert!(
                blobs
                    .list(&BlobPrefix::datasets(organization))
                    .await
                    .unwrap()
                    .is_empty()
            );
        })
        .await;
    }

    #[tokio::test]
    async fn files_are_whole_or_absent() {
        on_every_server(async |blobs| {
            let folder = tempfile::tempdir().unwrap();
            let (source, copy) = (folder.path().join("source"), folder.path().join("a/b/copy"));
            std::fs::write(&source, sample(9 * MIB)).unwrap();
            let key = BlobKey::checkpoint_file(run(), 50, "optimizer.safetensors").unwrap();
            let stored = blobs.put_file(&key, &source).await.unwrap();
            let fetched = blobs
                .get_to_file(&key, &copy, Some(&stored.sha256))
                .await
                .unwrap();
            assert_eq!(fetched, stored);
            assert!(std::fs::read(&copy).unwrap() == std::fs::read(&source).unwrap());

            std::fs::remove_file(&copy).unwrap();
            let wrong: Sha256Digest = "0".repeat(64).parse().unwrap();
            let error = blobs.get_to_file(&key, &copy, Some(&wrong)).await.unwrap_err();
            assert!(matches!(error, BlobError::DigestMismatch { .. }), "{error}");
            assert_eq!(std::fs::read_dir(copy.parent().unwrap()).unwrap().count(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_source_that_fails_stores_nothing() {
        on_every_server(async |blobs| {
            for before in [10, 20 * MIB] {
                let key = dataset_key();
                let bytes = sample(before);
                let good = pieces(&bytes, MIB)
                    .into_iter()
                    .map(|piece| piece.map_err(|_| unreachable!()));
                let body = stream::iter(good.chain([Err("the client went away")]));
                let error = blobs.put_stream(&key, body).await.unwrap_err();
                assert!(matches!(error, BlobError::Source { .. }), "{error}");
                assert!(blobs.head(&key).await.unwrap().is_none());
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_missing_file_says_so() {
        on_every_server(async |blobs| {
            let error = blobs
                .put_file(&dataset_key(), "/nowhere/at/all".as_ref())
                .await
                .unwrap_err();
            assert!(matches!(error, BlobError::File { .. }), "{error}");
        })
        .await;
    }

    #[tokio::test]
    async fn presigned_addresses_need_no_credentials_and_name_the_file() {
        on_every_server(async |blobs| {
            let key = BlobKey::adapter_file(run(), "adapter_config.json").unwrap();
            blobs.put_bytes(&key, "{}").await.unwrap();
            let minute = Duration::from_secs(60);
            let address = blobs
                .presign_get(&key, minute, Some("support@7\".json"))
                .await
                .unwrap();
            let answer = reqwest::get(&address).await.unwrap();
            assert_eq!(answer.status(), 200);
            let disposition = answer.headers()["content-disposition"]
                .to_str()
                .unwrap()
                .to_owned();
            assert_eq!(disposition, "attachment; filename=\"support@7.json\"");
            assert_eq!(answer.text().await.unwrap(), "{}");

            let other = BlobKey::adapter_file(run(), "manifest.json").unwrap();
            blobs.put_bytes(&other, "{}").await.unwrap();
            let forged = address.replace(key.as_str(), other.as_str());
            assert_eq!(reqwest::get(forged).await.unwrap().status(), 403);
        })
        .await;
    }
}

#[tokio::test]
async fn an_upload_asks_for_no_more_than_it_can_send() {
    let server = Server::start().await;
    let blobs = server.client().await;
    // The server is stopped, so no part ever leaves: the source must be left alone once the parts in flight are full.
    server.embedded.stop().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let endless = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from(vec![0; MIB]))
    });
    assert!(
        blobs
            .put_stream(&dataset_key(), endless.take(1024))
            .await
            .is_err()
    );
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 32, "{asked} MiB were read");
}

#[tokio::test]
async fn a_dropped_upload_is_aborted() {
    let server = Server::start().await;
    let blobs = server.client().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    let body = tokio_util_stream(receiver);
    let key = dataset_key();
    let upload = {
        let (blobs, key) = (blobs.clone(), key.clone());
        tokio::spawn(async move { blobs.put_stream(&key, body).await })
    };
    for _ in 0..9 {
        sender.send(Ok(Bytes::from(vec![1; MIB]))).await.unwrap();
    }
    until(|| server.files("uploads") >= 2).await;
    upload.abort();
    until(|| server.files("uploads") == 0).await;
    assert!(blobs.head(&key).await.unwrap().is_none());
    assert_eq!(server.files("objects"), 0);
}

#[tokio::test]
async fn a_restart_keeps_blobs_and_forgets_unfinished_uploads() {
    let server = Server::start().await;
    let key = dataset_key();
    server.client().await.put_bytes(&key, "kept").await.unwrap();
    let leftover = server.folder.path().join("uploads/deadbeef");
    std::fs::create_dir(&leftover).unwrap();
    std::fs::write(server.folder.path().join("incoming/half"), "half").unwrap();
    let settings = server.embedded.settings();
    server.embedded.stop().await;

    let again = EmbeddedS3::start(server.folder.path(), settings.credentials.unwrap(), 0)
        .await
        .unwrap();
    let blobs = Blobs::connect(&again.settings()).await;
    assert_eq!(blobs.get_bytes(&key, 10).await.unwrap(), "kept");
    assert!(!leftover.exists());
    assert_eq!(
        std::fs::read_dir(server.folder.path().join("incoming"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn only_the_key_pair_is_let_in() {
    let server = Server::start().await;
    let mut settings = server.embedded.settings();
    settings.credentials.as_mut().unwrap().secret_access_key = "guess".into();
    let error = Blobs::connect(&settings)
        .await
        .put_bytes(&dataset_key(), "x")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BlobError::Request { reason, .. } if reason == "SignatureDoesNotMatch"),
        "{error}"
    );
    let address = format!("http://{}/tunesmith/{}", server.embedded.address(), dataset_key());
    assert_eq!(reqwest::get(address).await.unwrap().status(), 403);
}

#[tokio::test]
async fn only_our_bucket_and_keys_of_our_grammar_are_admitted() {
    let server = Server::start().await;
    let settings = server.embedded.settings();
    let pair = settings.credentials.clone().unwrap();
    let raw = aws_sdk_s3::Client::from_conf(
        aws_sdk_s3::config::Builder::new()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .endpoint_url(settings.endpoint.unwrap())
            .force_path_style(true)
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                pair.access_key_id,
                pair.secret_access_key,
                None,
                None,
                "test",
            ))
            .build(),
    );
    let put = async |bucket: &str, key: &str| {
        let body = aws_sdk_s3::primitives::ByteStream::from_static(b"x");
        raw.put_object()
            .bucket(bucket)
            .key(key)
            .body(body)
            .send()
            .await
            .is_ok()
    };
    let good = dataset_key().to_string();
    assert!(put("tunesmith", &good).await);
    assert!(!put("another", &good).await);
    for key in [
        "x".to_owned(),
        "../../escaped".to_owned(),
        format!("../{good}"),
        format!("datasets/../../{good}"),
        format!("/{good}"),
        good.replace("datasets/", "datasets//"),
        format!("{good}/"),
        BaseModelId::new().to_string(),
        format!("base-models/{}/evil.py", BaseModelId::new()),
    ] {
        assert!(!put("tunesmith", &key).await, "{key}");
    }
    let list = async |prefix: &str| {
        raw.list_objects_v2()
            .bucket("tunesmith")
            .prefix(prefix)
            .send()
            .await
    };
    for prefix in ["..", "../", "datasets/../../", "/", "//etc"] {
        let listed = list(prefix).await;
        assert!(
            listed.is_err() || listed.unwrap().contents().is_empty(),
            "{prefix}"
        );
    }
    let page = raw
        .list_objects_v2()
        .bucket("tunesmith")
        .max_keys(1)
        .send()
        .await
        .unwrap();
    assert_eq!(page.contents().len(), 1);
    assert_eq!(server.files("objects"), 1);
    let above = std::fs::read_dir(server.folder.path().parent().unwrap()).unwrap();
    assert!(above.flatten().all(|entry| entry.file_name() != "escaped"));
}

#[tokio::test]
async fn pages_of_a_listing_join() {
    let server = Server::start().await;
    let blobs = server.client().await;
    let organization = OrganizationId::new();
    // More than a page of a thousand, put there directly: the protocol is not what is tested.
    let folder = server
        .folder
        .path()
        .join(format!("objects/datasets/{organization}"));
    std::fs::create_dir_all(&folder).unwrap();
    for _ in 0..1_005 {
        std::fs::write(folder.join(format!("{}.jsonl", DatasetId::new())), "x").unwrap();
    }
    let listed = blobs.list(&BlobPrefix::datasets(organization)).await.unwrap();
    assert_eq!(listed.len(), 1_005);
    assert!(listed.is_sorted_by(|left, right| left.key < right.key));
}

fn tokio_util_stream(
    receiver: tokio::sync::mpsc::Receiver<Result<Bytes, Infallible>>,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}

/// Waits for something that happens by itself; the test's own timeout is the limit.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
