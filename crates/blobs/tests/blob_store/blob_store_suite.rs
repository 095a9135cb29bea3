//! What every server must do.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tunesmith_blobs::{BlobError, BlobKey, BlobPrefix};
use tunesmith_types::{
    ids::{DatasetId, OrganizationId},
    names::Sha256Digest,
};

use crate::support::{MIB, dataset_key, on_every_server, pieces, run, sample};

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
