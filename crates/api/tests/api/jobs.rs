//! Training jobs as their owners see them.

use serde_json::{Value, json};
use tunesmith_store::queue;

use crate::support::{App, Client, claim, example_lines, finish_job, metric, tiny_model};

/// A client with the model `tiny` and the dataset `data`.
pub(crate) async fn ready(app: &App, name: &str) -> Client {
    let client = app.sign_up(name).await;
    client.register("tiny", &tiny_model()).await.ok(200);
    client.upload("data", &example_lines(10)).await;
    client
}

/// A job request.
pub(crate) fn request(adapter: &str) -> Value {
    json!({"base_model": "tiny", "dataset": "data", "adapter": adapter})
}

#[tokio::test]
async fn the_answer_states_every_value_and_why() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let mut asked = request("boxes");
    asked["hyperparameters"] = json!({"rank": 4, "max_steps": 7, "target_modules": ["v_proj", "q_proj"]});
    let job = client.post("/v1/jobs", &asked).await.ok(201);
    let values = &job["hyperparameters"];
    assert_eq!(
        (&values["rank"], &values["alpha"], &values["max_steps"]),
        (&json!(4), &json!(8.0), &json!(7))
    );
    assert_eq!(values["max_seq_len"], 64, "the model's limit");
    assert_eq!(values["target_modules"], json!(["q_proj", "v_proj"]));
    assert_eq!(job["decided"]["alpha"], "default: twice the rank");
    assert_eq!(
        job["decided"]["max_seq_len"],
        "the base model's limit of 64 tokens"
    );
    assert_eq!(job["decided"]["layers_to_transform"], "default: every block");
    for field in ["rank", "epochs", "target_modules"] {
        assert!(job["decided"].get(field).is_none(), "{job}");
    }
    assert_eq!(
        (&job["status"], &job["dataset"]),
        (&json!("queued"), &json!("data@1"))
    );
    for reference in ["data@1", job["dataset_id"].as_str().unwrap()] {
        let mut again = request("boxes");
        again["dataset"] = json!(reference);
        again["base_model"] = job["base_model_id"].clone();
        client.post("/v1/jobs", &again).await.ok(201);
    }
}

#[tokio::test]
async fn every_knob_is_taken_and_echoed() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let asked = json!({
        "rank": 8, "alpha": 12.0, "dropout": 0.1, "use_rslora": true, "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 16}, "alpha_pattern": {"layers.0.self_attn.v_proj": 4.0},
        "layers_to_transform": [0], "loraplus_lr_ratio": 16.0, "learning_rate": 1e-3,
        "schedule": "warmup_stable_decay", "decay_ratio": 0.5, "warmup_ratio": 0.25, "weight_decay": 0.01,
        "max_grad_norm": 0.3, "max_steps": 20, "batch_tokens": 4096, "max_seq_len": 32, "over_long": "drop",
        "train_on_inputs": true, "eval_fraction": 0.2, "eval_every": 5, "early_stopping_patience": 3,
        "early_stopping_threshold": 0.01, "load_best_model_at_end": true, "checkpoint_every": 10,
        "dtype": "float32", "seed": 7,
    });
    let mut body = request("boxes");
    body["hyperparameters"] = asked.clone();
    let job = client.post("/v1/jobs", &body).await.ok(201);
    assert_eq!(job["hyperparameters"], asked);
    assert_eq!(job["decided"], json!({}));
    let seen = client
        .get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap()))
        .await
        .ok(200);
    assert_eq!(seen["hyperparameters"], asked, "the row keeps every value");
    let pattern = json!({"target_modules": r".*\.[qv]_proj", "rank": 4});
    body["hyperparameters"] = pattern.clone();
    let job = client.post("/v1/jobs", &body).await.ok(201);
    assert_eq!(
        job["hyperparameters"]["target_modules"],
        pattern["target_modules"]
    );
}

#[tokio::test]
async fn progress_events_metrics_and_the_version_are_seen() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let queued = client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let path = format!("/v1/jobs/{}", queued["id"].as_str().unwrap());
    let job = claim(&app.state).await;
    let event = tunesmith_store::events::NewEvent::new(
        tunesmith_types::states::EventLevel::Info,
        "started",
        "started",
    );
    let start = queue::RunStart {
        total_steps: 4,
        resumed_from_step: 0,
        device: "cpu",
        dtype: "float32",
        event: &event,
    };
    queue::record_start(&app.state.store, &job.token, &start)
        .await
        .unwrap();
    queue::record_metrics(&app.state.store, &job.token, &[metric(1), metric(2)])
        .await
        .unwrap();

    let running = client.get(&path).await.ok(200);
    assert_eq!(running["status"], "running");
    let progress = &running["progress"];
    assert_eq!(
        (&progress["step"], &progress["total_steps"], &progress["percent"]),
        (&json!(2), &json!(4), &json!(50.0))
    );
    assert_eq!(
        (&progress["tokens_per_second"], &progress["seconds_left"]),
        (&json!(200.0), &json!(1.0))
    );
    let metrics = client.get(&format!("{path}/metrics?after_step=1")).await.ok(200);
    assert_eq!(
        (&metrics["last_step"], metrics["data"].as_array().unwrap().len()),
        (&json!(2), 1)
    );

    finish_job(&app.state, &job).await;
    let done = client.get(&path).await.ok(200);
    assert_eq!(
        (&done["status"], &done["adapter_version"]["reference"]),
        (&json!("succeeded"), &json!("boxes@1"))
    );
    let events = client.get(&format!("{path}/events")).await.ok(200);
    let kinds: Vec<&str> = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.last(), Some(&"queued"), "{events}");
    assert!(kinds.contains(&"started"), "{events}");
    assert_eq!(
        client.get(&format!("{path}/checkpoints")).await.ok(200)["data"],
        json!([])
    );
    let finished = client.get("/v1/jobs?status=succeeded").await.ok(200);
    assert_eq!(finished["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        client.get("/v1/jobs?status=queued").await.ok(200)["data"],
        json!([])
    );
    client
        .delete("/v1/base-models/tiny")
        .await
        .fails(409, "base_model_in_use", Some("id"));
    let dataset = format!("/v1/datasets/{}", queued["dataset_id"].as_str().unwrap());
    client
        .delete(&dataset)
        .await
        .fails(409, "dataset_in_use", Some("id"));
}

#[tokio::test]
async fn a_job_is_cancelled_once() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let queued = client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let path = format!("/v1/jobs/{}/cancel", queued["id"].as_str().unwrap());
    assert_eq!(
        client.post(&path, &json!({})).await.ok(200)["status"],
        "cancelled"
    );
    let again = client.post(&path, &json!({})).await;
    again.fails(409, "job_finished", None);
    assert_eq!(again.headers["x-should-retry"], "false");

    let second = client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let path = format!("/v1/jobs/{}", second["id"].as_str().unwrap());
    let held = claim(&app.state).await;
    let asked = client
        .send(client.request("POST", &format!("{path}/cancel")))
        .await
        .ok(200);
    assert_eq!(
        (&asked["status"], &asked["cancel_requested"]),
        (&json!("running"), &json!(true))
    );
    queue::finish_cancel(&app.state.store, &held.token).await.unwrap();
    assert_eq!(client.get(&path).await.ok(200)["status"], "cancelled");
}

#[tokio::test]
async fn what_cannot_be_trained_on_is_refused() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.upload("bad", "not json\n").await;
    let mut bad = request("boxes");
    bad["dataset"] = json!("bad");
    client
        .post("/v1/jobs", &bad)
        .await
        .fails(400, "dataset_invalid", Some("dataset"));

    client
        .post("/v1/base-models", &json!({"name": "unfinished"}))
        .await
        .ok(201);
    let mut unfinished = request("boxes");
    unfinished["base_model"] = json!("unfinished");
    client
        .post("/v1/jobs", &unfinished)
        .await
        .fails(409, "base_model_not_ready", Some("base_model"));

    let without: Vec<_> = tiny_model()
        .into_iter()
        .filter(|(name, _)| *name != "chat_template.jinja")
        .collect();
    assert_eq!(
        client.register("plain", &without).await.ok(200)["has_chat_template"],
        false
    );
    let mut plain = request("boxes");
    plain["base_model"] = json!("plain");
    client
        .post("/v1/jobs", &plain)
        .await
        .fails(400, "no_chat_template", Some("base_model"));
    client
        .upload("prompts", "{\"prompt\": \"p\", \"completion\": \"c\"}\n")
        .await;
    plain["dataset"] = json!("prompts");
    client.post("/v1/jobs", &plain).await.ok(201);
}
