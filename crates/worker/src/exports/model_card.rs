//! The model card of an exported adapter: what it is, what it was made from, and how it is loaded.

use std::fmt::Write;

use serde_json::Value;
use tunesmith_store::adapters::AdapterVersion;

/// Hyperparameters that a reader looks for first, as the manifest names them.
const KNOBS: [&str; 9] = [
    "rank",
    "alpha",
    "use_rslora",
    "dropout",
    "target_modules",
    "learning_rate",
    "schedule",
    "max_seq_len",
    "seed",
];

/// Markdown with the YAML head that model hubs read.
pub(super) fn model_card(version: &AdapterVersion) -> String {
    let manifest = &version.manifest;
    let name = format!("{}@{}", version.adapter, version.number);
    // JSON strings are YAML strings.
    let base = Value::from(version.base_model.as_str());
    let mut card = format!(
        "---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- tunesmith\n---\n\n\
         # {name}\n\nA LoRA adapter of `{}`, made with Tunesmith.\n\n## Made from\n\n",
        version.base_model
    );
    let mut rows: Vec<(&str, String)> = vec![("Version digest", version.digest.to_string())];
    for (label, field) in [
        ("Base model digest", "base_digest"),
        ("Tokenizer digest", "tokenizer_digest"),
        ("Chat template digest", "template_digest"),
        ("Dataset", "dataset"),
        ("Dataset sha256", "dataset_sha256"),
        ("Method", "method"),
        ("Source", "source"),
    ] {
        rows.extend(shown(&manifest[field]).map(|value| (label, value)));
    }
    write_table(&mut card, &rows);
    let knobs = &manifest["hyperparameters"];
    write_section(&mut card, "Hyperparameters", KNOBS.iter().copied(), knobs);
    if let Some(metrics) = version.metrics.as_object() {
        let names = metrics.keys().map(String::as_str);
        write_section(&mut card, "Metrics", names, &version.metrics);
    }
    let _ = write!(
        card,
        "\n## Loading\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, \
         AutoTokenizer\n\nbase = AutoModelForCausalLM.from_pretrained({base})\nmodel = PeftModel.from_pretrained(base, \
         \"path/to/this/folder\")\ntokenizer = AutoTokenizer.from_pretrained({base})\n```\n\nThe output of a module is `W x + \
         s · B (A x)`, with `s = alpha / rank` (`alpha / sqrt(rank)` with rsLoRA).\n"
    );
    card
}

fn write_section<'a>(card: &mut String, title: &str, names: impl Iterator<Item = &'a str>, values: &Value) {
    let rows: Vec<(&str, String)> = names
        .filter_map(|name| Some((name, shown(&values[name])?)))
        .collect();
    if !rows.is_empty() {
        let _ = write!(card, "\n## {title}\n\n");
        write_table(card, &rows);
    }
}

fn write_table(card: &mut String, rows: &[(&str, String)]) {
    card.push_str("| | |\n| --- | --- |\n");
    for (label, value) in rows {
        // What would end a cell or a line.
        let value = value.replace('|', "\\|").replace(['\n', '\r'], " ");
        let _ = writeln!(card, "| {label} | {value} |");
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
