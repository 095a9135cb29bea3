//! Imports are bounded in number, so that nobody fills the disk.

use std::time::Duration;

use crate::imports::{PATH, good_folder, send};
use crate::jobs::ready;
use crate::support::{App, Client};

/// An import whose archive never ends, until it is given up.
fn never_ending(client: &Client) -> tokio::task::JoinHandle<()> {
    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = client
        .request("POST", PATH)
        .header("content-type", "application/x-tar");
    let request = request.body(body);
    tokio::spawn(async move {
        let _ = request.send().await;
    })
}

#[tokio::test]
async fn an_organization_imports_two_adapters_at_a_time() {
    let app = App::start().await;
    let (owner, other) = (ready(&app, "first").await, ready(&app, "second").await);
    let stalled = [never_ending(&owner), never_ending(&owner)];
    // What is no archive is refused for itself, until both places are taken.
    let attempt = async || send(&owner, PATH, b"no archive".to_vec()).await;
    let mut refused = attempt().await;
    for _ in 0..100 {
        if refused.status != 400 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        refused = attempt().await;
    }
    refused.fails(429, "too_many_imports", None);
    assert_eq!(refused.headers["retry-after"], "10");
    send(&other, PATH, good_folder()).await.ok(201);

    stalled.iter().for_each(tokio::task::JoinHandle::abort);
    for _ in 0..100 {
        let again = send(&owner, PATH, good_folder()).await;
        if again.status != 429 {
            again.ok(201);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the places were not given back");
}
