//! Replicas that fail.

use serde_json::json;

use crate::bench::{Bench, Setup, json_of, text};

#[tokio::test]
async fn a_replica_that_forgot_is_taught_again_while_the_request_waits() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    bench.replica.restart();
    let response = bench.chat("helpdesk", json!({})).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["x-tunesmith-version"], "tone@1");
    bench.stop().await;
}

#[tokio::test]
async fn errors_of_a_replica_become_ours() {
    let bench = Bench::start().await;
    let too_long = "This model's maximum context length is 64 tokens. However, you requested 90 tokens.";
    let table = [
        (
            400,
            json!({"error": {"message": too_long, "code": 400}}),
            400,
            "context_length_exceeded",
            "90",
        ),
        (
            400,
            json!({"object": "error", "message": too_long, "code": 400}),
            400,
            "context_length_exceeded",
            "64",
        ),
        (
            400,
            json!({"error": {"message": "`top_p` of served-base is wrong", "param": "top_p", "code": 400}}),
            400,
            "invalid_request",
            "`top_p` of primer",
        ),
        (
            429,
            json!({"error": {"message": "busy"}}),
            429,
            "overloaded",
            "again",
        ),
        (
            503,
            json!({"error": {"message": "busy"}}),
            429,
            "overloaded",
            "again",
        ),
        (
            500,
            json!({"error": {"message": "/secret/path exploded"}}),
            502,
            "upstream_error",
            "failed to answer",
        ),
        (
            401,
            json!({"error": "who are you"}),
            502,
            "upstream_error",
            "failed to answer",
        ),
    ];
    for (status, body, expected, code, words) in table {
        bench
            .replica
            .faults(|faults| faults.chat_error = Some((status, body.clone())));
        let response = bench.chat("primer", json!({})).await;
        assert_eq!(
            response.headers().contains_key("retry-after"),
            expected == 429,
            "{body}"
        );
        let (status, answer) = json_of(response).await;
        assert_eq!(
            (status.as_u16(), answer["error"]["code"].as_str()),
            (expected, Some(code)),
            "{body}"
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(words) && !message.contains("/secret"),
            "{message}"
        );
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_server_whose_engine_is_dead_gets_no_further_requests() {
    let bench = Bench::with(Setup {
        replicas: 2,
        ..Setup::default()
    })
    .await;
    assert_eq!(bench.chat("primer", json!({})).await.status().as_u16(), 200);
    let words = "EngineCore encountered an issue. See stack trace (above) for the root cause.";
    let dead = json!({"error": {"message": words, "type": "InternalServerError", "code": 500}});
    bench.replica.faults(|faults| {
        faults.chat_error = Some((500, dead));
        faults.unhealthy = true;
    });
    for _ in 0..8 {
        assert_eq!(bench.chat("primer", json!({})).await.status().as_u16(), 200);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_event() {
    let bench = Bench::start().await;
    bench.replica.faults(|faults| faults.cut_streams = true);
    let (_, stream) = text(bench.chat("primer", json!({"stream": true})).await).await;
    let events: Vec<&str> = stream.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.len(), 2, "{stream}");
    assert!(events[1].contains("\"upstream_error\""), "{stream}");
    bench.stop().await;
}
