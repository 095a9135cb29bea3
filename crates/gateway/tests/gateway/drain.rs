//! Taking adapters off replicas and off the disk.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::sync::oneshot;

use crate::bench::{Bench, Setup};

#[tokio::test]
async fn requests_of_another_gateway_hold_an_adapter() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    let name = bench.replica.loaded().into_keys().next().unwrap();
    bench.replica.faults(|faults| faults.busy.insert(name.clone()));
    // The replica must have been asked once more, or the deletion would be faster than the request.
    tokio::time::sleep(Duration::from_millis(250)).await;
    bench.delete("helpdesk").await;
    // The fake panics where an adapter in use is unloaded.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(bench.replica.loaded().contains_key(&name));
    bench.replica.faults(|faults| faults.busy.clear());
    bench.replica.wait_for(std::collections::HashMap::is_empty).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_stream_holds_its_adapter() {
    let bench = Bench::start().await;
    let first = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(first)).await;
    bench.settled("helpdesk").await;
    let (guard, gone) = oneshot::channel::<()>();
    bench.replica.faults(|faults| faults.endless = Some(guard));
    let response = bench.chat("helpdesk", json!({"stream": true})).await;
    let mut stream = response.into_body().into_data_stream();
    assert!(stream.next().await.unwrap().is_ok());
    let second = bench.publish("tone", 2).await;
    bench.promote("helpdesk", second).await;
    bench.settled("helpdesk").await;
    bench.delete("helpdesk").await;
    bench.replica.wait_for(|loaded| loaded.len() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left: Vec<String> = bench.replica.loaded().into_keys().collect();
    assert!(left[0].starts_with("tone--v1"), "{left:?}");
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    assert!(gone.await.is_err());
    bench.replica.wait_for(std::collections::HashMap::is_empty).await;
    bench.stop().await;
}

#[tokio::test]
async fn files_go_after_the_last_replica_has_forgotten_them() {
    let bench = Bench::with(Setup {
        replicas: 2,
        settings: |settings| settings.sweep_grace = Duration::from_millis(100),
        ..Setup::default()
    })
    .await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    let staged = || std::fs::read_dir(bench.staged()).unwrap().count();
    let second = &bench.replicas[1];
    let name = second.loaded().into_keys().next().unwrap();
    for entry in std::fs::read_dir(bench.staged()).unwrap() {
        for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            assert!(file.unwrap().metadata().unwrap().permissions().readonly());
        }
    }
    second.faults(|faults| faults.busy.insert(name));
    tokio::time::sleep(Duration::from_millis(250)).await;
    bench.delete("helpdesk").await;
    bench.replica.wait_for(std::collections::HashMap::is_empty).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(staged(), 1, "the second replica may read them again");
    second.faults(|faults| faults.busy.clear());
    second.wait_for(std::collections::HashMap::is_empty).await;
    while staged() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_others_have_loaded_is_left_alone_and_what_we_have_forgotten_is_not() {
    let bench = Bench::start().await;
    bench.replica.plant("somebodys-adapter", "/elsewhere");
    bench.replica.plant("support--v3-0123abcd", "/old/cache");
    bench.replica.wait_for(|loaded| loaded.len() == 1).await;
    assert!(bench.replica.loaded().contains_key("somebodys-adapter"));
    bench.stop().await;
}
