//! Every request leaves one record, however it ends.

use chrono::{Duration, Utc};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::oneshot;
use tunesmith_store::{
    feedback,
    requests::{self, Usage, UsageGroups},
};

use crate::bench::{Bench, json_of, text};

async fn usage(bench: &Bench) -> Vec<Usage> {
    let groups = UsageGroups {
        version: true,
        ..UsageGroups::default()
    };
    let (from, until) = (Utc::now() - Duration::days(1), Utc::now() + Duration::days(1));
    requests::usage(bench.store(), bench.organization, from, until, groups)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_graceful_stop_loses_no_record() {
    let mut bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    for request in 0..50 {
        let response = bench.chat("helpdesk", json!({"stream": request % 2 == 0})).await;
        assert_eq!(text(response).await.0.as_u16(), 200);
    }
    bench
        .replica
        .faults(|faults| faults.failing.extend(["tone--".to_owned()]));
    assert_eq!(bench.chat("helpdesk", json!({})).await.status().as_u16(), 502);
    bench.replica.faults(|faults| faults.failing.clear());
    // A caller that leaves in the middle.
    let (guard, gone) = oneshot::channel::<()>();
    bench.replica.faults(|faults| faults.endless = Some(guard));
    let response = bench.chat("helpdesk", json!({"stream": true})).await;
    let mut body = response.into_body().into_data_stream();
    for _ in 0..3 {
        assert!(body.next().await.unwrap().unwrap().starts_with(b"data: "));
    }
    drop(body);
    assert!(gone.await.is_err());
    bench.chat("primer", json!({})).await;
    // Nobody's model, nobody's usage.
    bench.chat("nothing", json!({})).await;
    bench.halt().await;

    let usage = usage(&bench).await;
    let [base, tuned] = usage.as_slice() else {
        panic!("{usage:?}");
    };
    assert_eq!(
        (base.version.as_deref(), base.requests, base.prompt_tokens),
        (Some("base"), 1, 3)
    );
    assert_eq!((tuned.version.as_deref(), tuned.requests), (Some("tone@1"), 52));
    assert_eq!((tuned.errors, tuned.cancelled), (1, 1));
    assert_eq!((tuned.prompt_tokens, tuned.cached_tokens), (50 * 3, 50 * 2));
    let of_cancelled = tuned.completion_tokens - 50 * 4;
    assert!(
        (3..50).contains(&of_cancelled),
        "{of_cancelled} tokens were seen of the cancelled stream"
    );
}

#[tokio::test]
async fn an_answer_has_an_id_of_ours_that_takes_feedback() {
    let bench = Bench::start().await;
    bench.deploy("helpdesk", None).await;
    bench.settled("helpdesk").await;
    let (_, answer) = json_of(bench.chat("helpdesk", json!({})).await).await;
    let whole = answer["id"].as_str().unwrap().to_owned();
    let (_, stream) = text(bench.chat("helpdesk", json!({"stream": true})).await).await;
    let chunk: serde_json::Value =
        serde_json::from_str(stream.lines().next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    let streamed = chunk["id"].as_str().unwrap();
    assert_eq!(stream.matches(streamed).count(), 2, "{stream}");
    assert_ne!(whole, streamed);
    assert!(!stream.contains("usage"), "{stream}");
    for id in [whole.as_str(), streamed] {
        let digits = id.strip_prefix("chatcmpl-").unwrap().parse().unwrap();
        let version = loop {
            match feedback::score(bench.store(), bench.organization, digits, 1.0, None).await {
                Ok(version) => break version,
                // The batch is on its way.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        assert_eq!(version, "base");
    }
    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (_, stream) = text(bench.chat("helpdesk", asked).await).await;
    assert!(stream.contains("\"prompt_tokens\":3"), "{stream}");
    bench.stop().await;
}
