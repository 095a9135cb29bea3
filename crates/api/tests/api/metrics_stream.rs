//! The live stream of a job's metrics.

use futures::StreamExt;
use serde_json::{Value, json};
use tunesmith_store::metrics::NewMetric;
use tunesmith_store::queue;

use crate::jobs::{ready, request};
use crate::support::{App, Client, claim, finish_job, metric};

/// An open stream; events are read one by one.
struct Events {
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Events {
    async fn open(client: &Client, job: &str, last: Option<&str>) -> Self {
        let request = client
            .request("GET", &format!("/v1/jobs/{job}/metrics"))
            .header("accept", "text/event-stream");
        let request = match last {
            Some(step) => request.header("last-event-id", step),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().contains_key("x-request-id"));
        Self {
            bytes: response.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    /// Name, id and data of the next event; none at the end.
    async fn next(&mut self) -> Option<(String, Option<String>, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                let parsed = (
                    field("event: ").unwrap_or_default(),
                    field("id: "),
                    serde_json::from_str(&field("data: ").unwrap_or("null".to_owned())).unwrap(),
                );
                self.text = rest.to_owned();
                if !parsed.0.is_empty() {
                    return Some(parsed);
                }
                continue;
            }
            let piece = self.bytes.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn step(&mut self) -> Value {
        let (name, id, data) = self.next().await.unwrap();
        assert_eq!((name.as_str(), id), ("metric", Some(data["step"].to_string())));
        data
    }
}

#[tokio::test]
async fn steps_arrive_as_they_are_made_and_the_end_is_told() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let job = client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let job = job["id"].as_str().unwrap();
    let mut early = Events::open(&client, job, None).await;
    let held = claim(&app.state).await;
    let record = async |rows: &[NewMetric]| {
        queue::record_metrics(&app.state.store, &held.token, rows)
            .await
            .unwrap()
    };
    record(&[metric(1), metric(2)]).await;
    assert_eq!(early.step().await["loss"], 2.0);
    assert_eq!(early.step().await["step"], 2);
    record(&[metric(3)]).await;
    assert_eq!(early.step().await["step"], 3);

    // An evaluation comes with its step, also where the step was sent before.
    record(&[NewMetric::evaluation(3, 0.5, 0.75)]).await;
    let evaluated = early.step().await;
    assert_eq!(
        (&evaluated["step"], &evaluated["eval_loss"]),
        (&json!(3), &json!(0.5))
    );
    let mut resumed = Events::open(&client, job, Some("2")).await;
    assert_eq!(resumed.step().await["step"], 3);

    finish_job(&app.state, &held).await;
    for mut events in [early, resumed] {
        let (name, _, data) = events.next().await.unwrap();
        assert_eq!((name.as_str(), &data["status"]), ("end", &json!("succeeded")));
        assert!(events.next().await.is_none());
    }
    let mut late = Events::open(&client, job, None).await;
    let mut steps = Vec::new();
    while let Some((name, _, data)) = late.next().await {
        steps.push((name, data["step"].clone()));
    }
    let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["metric", "metric", "metric", "end"]);
}

#[tokio::test]
async fn a_stream_needs_a_job_of_ones_own_and_a_step() {
    let app = App::start().await;
    let owner = ready(&app, "first").await;
    let stranger = app.sign_up("second").await;
    let job = owner.post("/v1/jobs", &request("boxes")).await.ok(201);
    let path = format!("/v1/jobs/{}/metrics", job["id"].as_str().unwrap());
    let stream = |client: &Client| client.request("GET", &path).header("accept", "text/event-stream");
    stranger
        .send(stream(&stranger))
        .await
        .fails(404, "training_job_not_found", None);
    let wrong = stream(&owner).header("last-event-id", "soon");
    owner
        .send(wrong)
        .await
        .fails(400, "invalid_parameter", Some("Last-Event-ID"));
}
