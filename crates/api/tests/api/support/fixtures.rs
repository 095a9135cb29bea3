//! A tiny model, a tiny dataset, and what a worker would do with a job.

use serde_json::json;
use tunesmith_api::ApiState;
use tunesmith_blobs::BlobKey;
use tunesmith_blobs::keys::RunPlace;
use tunesmith_store::adapters::NewAdapterVersion;
use tunesmith_store::files::StoredFile;
use tunesmith_store::metrics::NewMetric;
use tunesmith_store::queue::{self, ClaimedJob, Completion, QueueSettings};

/// `count` conversations.
pub(crate) fn example_lines(count: usize) -> String {
    let line = |number| {
        json!({"messages": [
            {"role": "user", "content": format!("item {number}")},
            {"role": "assistant", "content": "box"},
        ]})
    };
    (0..count).map(|number| format!("{}\n", line(number))).collect()
}

/// The files of a Llama with one layer: right headers, zeros for weights.
pub(crate) fn tiny_model() -> Vec<(&'static str, Vec<u8>)> {
    let config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![32, 32]),
        ("model.norm.weight".to_owned(), vec![32]),
        (layer("input_layernorm"), vec![32]),
        (layer("post_attention_layernorm"), vec![32]),
        (layer("self_attn.q_proj"), vec![32, 32]),
        (layer("self_attn.k_proj"), vec![16, 32]),
        (layer("self_attn.v_proj"), vec![16, 32]),
        (layer("self_attn.o_proj"), vec![32, 32]),
        (layer("mlp.gate_proj"), vec![64, 32]),
        (layer("mlp.up_proj"), vec![64, 32]),
        (layer("mlp.down_proj"), vec![32, 64]),
    ];
    vec![
        ("config.json", config.to_string().into_bytes()),
        (
            "tokenizer.json",
            json!({"model": {"type": "BPE", "vocab": {}, "merges": []}})
                .to_string()
                .into_bytes(),
        ),
        (
            "chat_template.jinja",
            b"{% for message in messages %}{{ message.content }}{% endfor %}".to_vec(),
        ),
        ("model.safetensors", safetensors(&tensors)),
    ]
}

fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let bytes = 2 * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        end += bytes;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + end, 0);
    file
}

/// Claims the next job, as a worker does.
pub(crate) async fn claim(state: &ApiState) -> ClaimedJob {
    queue::claim(&state.store, &QueueSettings::default(), "test-worker")
        .await
        .unwrap()
        .unwrap()
}

/// The numbers of a step.
pub(crate) fn metric(step: i64) -> NewMetric {
    NewMetric {
        step,
        data_epoch: Some(step as f64 / 10.0),
        loss: Some(2.0 / step as f64),
        learning_rate: Some(1e-4),
        grad_norm: Some(1.0),
        tokens: Some(100),
        supervised_tokens: Some(50),
        seconds: Some(0.5),
        eval_loss: None,
        eval_token_accuracy: None,
    }
}

/// Ends a claimed job with a version of two small files.
pub(crate) async fn finish_job(state: &ApiState, job: &ClaimedJob) {
    finish_job_as(state, job, json!({"rank": 16})).await;
}

/// The same, where the version has this manifest.
pub(crate) async fn finish_job_as(state: &ApiState, job: &ClaimedJob, manifest: serde_json::Value) {
    let place = RunPlace {
        job: job.token.job_id,
        epoch: job.token.epoch,
        lease: job.token.lease_id,
    };
    let mut files = Vec::new();
    for (name, content) in [
        ("adapter_model.safetensors", "weights".repeat(100)),
        ("adapter_config.json", "{}".to_owned()),
    ] {
        let key = BlobKey::adapter_file(place, name).unwrap();
        let stored = state.blobs.put_bytes(&key, content.into_bytes()).await.unwrap();
        files.push(StoredFile {
            name: name.to_owned(),
            key: key.to_string(),
            sha256: stored.sha256.to_string(),
            bytes: stored.bytes,
        });
    }
    let digest = files[0].sha256.parse().unwrap();
    let version = NewAdapterVersion {
        digest,
        manifest,
        files,
        metrics: json!({}),
    };
    let completion = Completion {
        version,
        metrics_file: None,
        steps: 3,
    };
    queue::complete(&state.store, &job.token, &completion)
        .await
        .unwrap();
}
