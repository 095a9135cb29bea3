//! Folders that peft itself wrote (`scripts/parity/make_adapters.py`), imported over HTTP.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::imports::{folder_of, send};
use crate::support::{App, Client};

/// A tensor's type, shape and bytes.
type Tensors = BTreeMap<String, (Value, Value, Vec<u8>)>;

fn adapter(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/adapters")
        .join(case)
}

async fn with_base(app: &App, family: &str) -> Client {
    let client = app.sign_up(family).await;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../model/tests/golden/{family}/base"));
    let files = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let files = files.map(|name| (name, std::fs::read(base.join(name)).unwrap()));
    client.register("base", &files).await.ok(200);
    client
}

fn parse(file: &[u8]) -> Tensors {
    let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let header: BTreeMap<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let data = &file[8 + length..];
    let place = |offset: &Value| usize::try_from(offset.as_u64().unwrap()).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, entry)| {
            let offsets = &entry["data_offsets"];
            let bytes = data[place(&offsets[0])..place(&offsets[1])].to_vec();
            (name, (entry["dtype"].clone(), entry["shape"].clone(), bytes))
        })
        .collect()
}

#[tokio::test]
async fn what_peft_writes_is_taken_number_for_number() {
    let app = App::start().await;
    for (family, cases) in [
        ("llama", &["all-linear", "rslora", "patterns", "tied-head"][..]),
        ("mistral", &["embedding-and-head", "kept-embeddings"]),
    ] {
        let client = with_base(&app, family).await;
        for case in cases {
            let path = format!("/v1/adapters/{case}/import?base_model=base");
            let imported = send(&client, &path, folder_of(&adapter(case))).await.ok(201);
            let config = std::fs::read(adapter(case).join("adapter_config.json")).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            let taken = &imported["manifest"]["hyperparameters"];
            for (ours, theirs) in [
                ("rank", "r"),
                ("use_rslora", "use_rslora"),
                ("rank_pattern", "rank_pattern"),
            ] {
                assert_eq!(taken[ours], config[theirs], "{case}: {ours}");
            }
            let files = client
                .get(&format!("/v1/adapters/{case}/versions/1/files"))
                .await
                .ok(200);
            let url = files["data"][1]["url"].as_str().unwrap().to_owned();
            let written = parse(&reqwest::get(url).await.unwrap().bytes().await.unwrap());
            let mut given = parse(&std::fs::read(adapter(case).join("adapter_model.safetensors")).unwrap());
            // Copies of the base model's own tensors are left out.
            given.retain(|name, _| name.contains("lora_"));
            assert!(written == given, "{case}: {:?}", written.keys());
        }
    }
}

#[tokio::test]
async fn what_would_be_lost_is_refused_by_name() {
    let app = App::start().await;
    const HEAD: &str = "`base_model.model.lm_head.base_layer.weight`";
    const EMBEDDING: &str = "`base_model.model.model.embed_tokens.base_layer.weight`";
    for (family, cases) in [
        (
            "llama",
            &[
                ("dora", &["`use_dora`", "only plain LoRA"][..]),
                ("bias", &["`bias`", "only `none`"]),
                ("modules-to-save", &["`modules_to_save`"]),
            ][..],
        ),
        (
            "mistral",
            &[
                ("trained-embedding", &[EMBEDDING, "other numbers"]),
                (
                    "rounded-embedding",
                    &[EMBEDDING, HEAD, "save_embedding_layers=False"],
                ),
                ("grown-vocabulary", &["[296, 32]", "[288, 32]"]),
                // Of another base model: shapes, and reasons of both kinds.
                ("tied-head", &[HEAD, "has the shape"]),
            ],
        ),
    ] {
        let client = with_base(&app, family).await;
        for (case, reasons) in cases {
            let path = format!("/v1/adapters/{case}/import?base_model=base");
            let answer = send(&client, &path, folder_of(&adapter(case))).await;
            answer.fails(400, "adapter_refused", None);
            let message = answer.body["error"]["message"].as_str().unwrap();
            for reason in *reasons {
                assert!(
                    message.contains(reason),
                    "{case}: `{reason}` is not in: {message}"
                );
            }
            assert_eq!(
                message.contains(HEAD),
                reasons.contains(&HEAD),
                "{case}: {message}"
            );
        }
    }
}
