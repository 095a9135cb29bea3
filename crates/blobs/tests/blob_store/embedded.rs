//! Uploads under way, restarts, and who and what is let in.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tunesmith_blobs::{BlobError, BlobPrefix, Blobs, embedded::EmbeddedS3};
use tunesmith_types::ids::{BaseModelId, DatasetId, OrganizationId};

use crate::support::{MIB, Server, dataset_key, received_stream, until};

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
    let body = received_stream(receiver);
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
