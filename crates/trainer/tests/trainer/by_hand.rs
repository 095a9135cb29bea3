//! The other commands, and training whole models on text.

use std::fs;
use std::process::Stdio;

use tunesmith_dataset::{Encoder, Example};

use crate::harness::{Job, executable};

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":300,"hidden_size":32,
    "intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,
    "hidden_act":"silu","max_position_embeddings":128,"rms_norm_eps":1e-5,"rope_theta":10000.0,
    "tie_word_embeddings":true,"initializer_range":0.02,"bos_token_id":null,"eos_token_id":2,"torch_dtype":"float32"}"#;

fn run(arguments: &[&str]) {
    let output = executable()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A scratch folder with a corpus, a tokenizer and a model with random weights, and a job on them.
fn fresh_model() -> Job {
    let mut job = Job::new();
    let text: String = (0..120)
        .map(|n| {
            format!(
                "{{\"text\":\"The lamp number {n} costs {} euros, it is red and bright.\"}}\n",
                n * 7
            )
        })
        .collect();
    job.set_file("data", &text);
    let path = |name: &str| job.path(name).to_str().unwrap().to_owned();
    fs::write(job.path("config.json"), CONFIG).unwrap();
    let (data, tokenizer, model) = (path("data.jsonl"), path("tokenizer"), path("model"));
    run(&[
        "tokenizer",
        "--data",
        &data,
        "--vocab-size",
        "300",
        "--out",
        &tokenizer,
    ]);
    let (file, config) = (path("tokenizer/tokenizer.json"), path("config.json"));
    let template = path("tokenizer/chat_template.jinja");
    run(&[
        "init",
        "--config",
        &config,
        "--tokenizer",
        &file,
        "--chat-template",
        &template,
        "--seed",
        "3",
        "--out",
        &model,
    ]);
    job.set("base", &model).remove("max-seq-len");
    job
}

#[test]
fn from_nothing_to_a_trained_model_to_an_adapter() {
    let mut job = fresh_model();
    job.flag("full").set("pack-text", "32").set("lr", "0.01");
    job.set("batch-size", "8")
        .set("max-steps", "12")
        .set("save-dtype", "bfloat16");
    job.finish();
    let steps = job.steps();
    assert_eq!(steps[0]["tokens"], 8 * 32);
    assert_eq!(steps[0]["supervised_tokens"], 8 * 31);
    let loss = |place: usize| steps[place]["loss"].as_f64().unwrap();
    assert!((loss(0) - 300f64.ln()).abs() < 0.1, "{}", loss(0));
    assert!(loss(11) < loss(0) - 1.0, "{} {}", loss(0), loss(11));
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        assert!(job.path("out").join(name).exists(), "{name}");
    }

    let mut next = Job::new();
    next.set("base", job.path("out").to_str().unwrap())
        .remove("max-seq-len");
    next.set("dtype", "bfloat16")
        .set("epochs", "1")
        .flag("length-buckets");
    next.finish();
    assert!(next.path("out/adapter_model.safetensors").exists());
}

#[test]
fn the_same_seed_gives_the_same_model_and_tokenizer() {
    let read = |job: &Job, name: &str| fs::read(job.path(name)).unwrap();
    let (first, second) = (fresh_model(), fresh_model());
    for name in ["model/model.safetensors", "tokenizer/tokenizer.json"] {
        assert_eq!(read(&first, name), read(&second, name), "{name}");
    }
}

#[test]
fn the_made_template_marks_what_the_model_writes() {
    let job = fresh_model();
    let encoder = Encoder::load(&job.path("model")).unwrap();
    let line = r#"{"messages":[{"role":"user","content":"Red?"},{"role":"assistant","content":"Yes, 12."}]}"#;
    let sequence = encoder.encode(&Example::parse(line.as_bytes()).unwrap()).unwrap();
    let pairs = sequence.tokens.iter().zip(&sequence.supervised);
    let learnt: Vec<u32> = pairs
        .filter_map(|(token, supervised)| supervised.then_some(*token))
        .collect();
    let tokenizer = encoder.tokenizer();
    assert_eq!(tokenizer.decode(&learnt, false).unwrap(), "Yes, 12.<|im_end|>");
    assert_eq!(tokenizer.special().eos_ids, [2]);
    assert_eq!(tokenizer.token_id("<|endoftext|>"), Some(0));
}
