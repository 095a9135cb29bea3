//! Jobs that train a version's adapter further, over HTTP.

use serde_json::{Value, json};
use tunesmith_store::queue::ClaimedJob;

use crate::aliases::put;
use crate::jobs::{ready, request};
use crate::support::{App, Client, claim, example_lines, finish_job_as, tiny_model};

/// A version of `boxes` that states its hyperparameters, as every trained one does.
async fn version(app: &App, client: &Client, hyperparameters: Value) -> ClaimedJob {
    let mut body = request("boxes");
    body["hyperparameters"] = hyperparameters;
    client.post("/v1/jobs", &body).await.ok(201);
    let claimed = claim(&app.state).await;
    finish(app, &claimed).await;
    claimed
}

async fn finish(app: &App, job: &ClaimedJob) {
    let manifest = json!({
        "hyperparameters": job.hyperparameters,
        "base_digest": job.base_model.details.as_ref().unwrap().digest,
        "parent_version": job.parent.as_ref().map(|parent| parent.id),
    });
    finish_job_as(&app.state, job, manifest).await;
}

fn beginning_with(reference: &str, hyperparameters: Value) -> Value {
    let mut body = request("boxes");
    body["parent_version"] = json!(reference);
    body["hyperparameters"] = hyperparameters;
    body
}

#[tokio::test]
async fn a_job_takes_over_what_its_parent_is() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let shape = json!({"rank": 4, "alpha": 6.0, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8}});
    version(&app, &client, shape).await;
    put(&client, "champion", &json!({"version": 1})).await.ok(200);
    version(&app, &client, json!({"rank": 2})).await;

    let asked = beginning_with("boxes@champion", json!({"learning_rate": 1e-3, "rank": 4}));
    let job = client.post("/v1/jobs", &asked).await.ok(201);
    assert_eq!(job["parent_version"]["reference"], "boxes@1");
    let values = &job["hyperparameters"];
    assert_eq!(
        (
            &values["rank"],
            &values["alpha"],
            &values["target_modules"],
            &values["rank_pattern"]
        ),
        (&json!(4), &json!(6.0), &json!(["q_proj"]), &json!({"q_proj": 8}))
    );
    assert_eq!(
        (&job["decided"]["alpha"], &job["decided"]["dropout"]),
        (&json!("as in boxes@1"), &json!("default"))
    );
    assert!(job["decided"].get("rank").is_none(), "{job}");
    client
        .delete("/v1/adapters/boxes/versions/1")
        .await
        .fails(409, "version_in_use", None);

    // The alias moves on; the job does not.
    put(&client, "champion", &json!({"version": 2})).await.ok(200);
    let claimed = claim(&app.state).await;
    assert_eq!(claimed.parent.as_ref().unwrap().number, 1);
    finish(&app, &claimed).await;
    let parent = client.get("/v1/adapters/boxes/versions/1").await.ok(200);
    let child = client.get("/v1/adapters/boxes/versions/3").await.ok(200);
    assert_eq!(child["parent_version_id"], parent["id"]);
    let lineage = client.get("/v1/adapters/boxes/versions/3/lineage").await.ok(200);
    assert_eq!(lineage["jobs"][1]["parent"], parent["id"], "{lineage}");
    let lineage = client.get("/v1/adapters/boxes/versions/1/lineage").await.ok(200);
    assert_eq!(lineage["versions"][0]["children"], json!([child["id"]]));
    let latest = beginning_with("boxes@latest", json!({}));
    let job = client.post("/v1/jobs", &latest).await.ok(201);
    assert_eq!(job["parent_version"]["number"], 3);
}

#[tokio::test]
async fn what_cannot_be_trained_further_is_refused() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    version(&app, &client, json!({"rank": 4})).await;
    version(&app, &client, json!({"rank": 4})).await;
    client.delete("/v1/adapters/boxes/versions/2").await.ok(200);
    let create = async |body: &Value| client.post("/v1/jobs", body).await;
    let field = Some("parent_version");
    for reference in ["boxes", "boxes@", "boxes@0", "@1"] {
        create(&beginning_with(reference, json!({})))
            .await
            .fails(400, "invalid_parameter", field);
    }
    for reference in ["boxes@9", "boxes@champion", "other@1"] {
        create(&beginning_with(reference, json!({})))
            .await
            .fails(404, "adapter_version_not_found", field);
    }
    create(&beginning_with("boxes@2", json!({})))
        .await
        .fails(410, "version_deleted", None);
    for (name, value) in [
        ("rank", json!(8)),
        ("alpha", json!(5.0)),
        ("use_rslora", json!(true)),
        ("target_modules", json!(["q_proj"])),
        ("layers_to_transform", json!([0])),
    ] {
        let param = format!("hyperparameters.{name}");
        create(&beginning_with("boxes@1", json!({name: value})))
            .await
            .fails(400, "invalid_parameter", Some(&param));
    }
    client.register("other", &tiny_model()).await.ok(200);
    let mut elsewhere = beginning_with("boxes@1", json!({}));
    elsewhere["base_model"] = json!("other");
    create(&elsewhere).await.fails(400, "base_model_differs", field);

    let stranger = app.sign_up("second").await;
    stranger.register("tiny", &tiny_model()).await.ok(200);
    stranger.upload("data", &example_lines(10)).await;
    stranger
        .post("/v1/jobs", &beginning_with("boxes@1", json!({})))
        .await
        .fails(404, "adapter_version_not_found", field);
}
