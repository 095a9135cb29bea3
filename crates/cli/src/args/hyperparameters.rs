//! Hyperparameters as options, and as a JSON file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};
use tunesmith_types::{
    error::ParameterError,
    hyperparameters::{
        ALL_LINEAR, HyperparametersRequest, LoraAlpha, LoraRank, OverLong, Schedule, TargetModulesRequest,
        TrainingDtype,
    },
};

/// Characters that no module name has, so that a target with one is a regular expression.
const EXPRESSION: [char; 12] = ['*', '+', '?', '(', ')', '[', ']', '{', '|', '\\', '^', '$'];
/// Fields of which one stands for the other.
const ALTERNATIVES: [[&str; 2]; 2] = [["epochs", "max_steps"], ["batch_size", "batch_tokens"]];

/// Hyperparameters; the server checks their bounds.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Hyperparameters")]
pub(crate) struct HyperparameterArgs {
    /// A JSON file with hyperparameters by the API's names; the options below go before what it says.
    #[arg(long = "hyperparameters", value_name = "FILE")]
    file: Option<PathBuf>,
    /// LoRA rank [default: 16].
    #[arg(long)]
    rank: Option<u32>,
    /// LoRA alpha [default: twice the rank].
    #[arg(long)]
    alpha: Option<f64>,
    /// LoRA dropout [default: 0].
    #[arg(long)]
    dropout: Option<f64>,
    /// Scale by alpha / sqrt(rank).
    #[arg(long, alias = "rslora")]
    use_rslora: bool,
    /// all-linear, names such as q_proj,v_proj, or a regular expression that whole names match, such as
    /// '.*layers\.[0-3]\..*(q|v)_proj' [default: all-linear].
    #[arg(long, alias = "target-modules", value_name = "MODULES", value_parser = parse_targets)]
    targets: Option<TargetModulesRequest>,
    /// Ranks of single modules, by the end of their names: 'q_proj=32,down_proj=4'.
    #[arg(long, value_name = "NAME=RANK,…", value_parser = parse_ranks)]
    rank_pattern: Option<BTreeMap<String, LoraRank>>,
    /// Alphas of single modules, by the end of their names: 'q_proj=64,down_proj=8'.
    #[arg(long, value_name = "NAME=ALPHA,…", value_parser = parse_alphas)]
    alpha_pattern: Option<BTreeMap<String, LoraAlpha>>,
    /// Blocks that get an adapter, from 0: 0,1,2 [default: all].
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    layers_to_transform: Option<Vec<u32>>,
    /// Learning rate of B over that of A, as in LoRA+ [default: 1].
    #[arg(long, value_name = "RATIO")]
    loraplus_lr_ratio: Option<f64>,
    /// Peak learning rate [default: 2e-4].
    #[arg(long = "lr", alias = "learning-rate", value_name = "RATE")]
    learning_rate: Option<f64>,
    /// constant, linear, cosine or warmup_stable_decay [default: cosine].
    #[arg(long, value_parser = word::<Schedule>)]
    schedule: Option<Schedule>,
    /// Share of the steps with a falling learning rate, under warmup_stable_decay [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    decay_ratio: Option<f64>,
    /// Share of the steps with a rising learning rate [default: 0.03].
    #[arg(long, value_name = "SHARE")]
    warmup_ratio: Option<f64>,
    /// AdamW's weight decay [default: 0].
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Gradient clipping; 0 turns it off [default: 1].
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// Passes over the data [default: 3].
    #[arg(long, conflicts_with = "max_steps")]
    epochs: Option<u32>,
    /// Optimizer steps, instead of epochs.
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<u64>,
    /// Examples of one optimizer step [default: 16].
    #[arg(long, value_name = "EXAMPLES", conflicts_with = "batch_tokens")]
    batch_size: Option<u32>,
    /// Tokens of one optimizer step, at most, instead of a number of examples.
    #[arg(long, value_name = "TOKENS")]
    batch_tokens: Option<u32>,
    /// Tokens of the longest example [default: 2048, or the base model's limit].
    #[arg(long, value_name = "TOKENS")]
    max_seq_len: Option<u32>,
    /// What happens to longer examples: truncate, drop or fail [default: truncate].
    #[arg(long, value_parser = word::<OverLong>)]
    over_long: Option<OverLong>,
    /// Learn whole conversations, not only what the assistant says.
    #[arg(long)]
    train_on_inputs: bool,
    /// Share of the examples held out for evaluation [default: 0.05].
    #[arg(long, value_name = "SHARE")]
    eval_fraction: Option<f64>,
    /// Steps between evaluations; 0 means at the end [default: once per epoch].
    #[arg(long, value_name = "STEPS")]
    eval_every: Option<u64>,
    /// Evaluations without improvement after which the job stops [default: never].
    #[arg(long, value_name = "EVALUATIONS")]
    early_stopping_patience: Option<u32>,
    /// Least fall of the evaluation loss that counts as an improvement [default: 0].
    #[arg(long, value_name = "LOSS")]
    early_stopping_threshold: Option<f64>,
    /// Deliver the adapter of the best evaluation, not the last one.
    #[arg(long)]
    load_best_model_at_end: bool,
    /// Steps between checkpoints; 0 means at the end [default: 50].
    #[arg(long, value_name = "STEPS")]
    checkpoint_every: Option<u64>,
    /// auto, float32 or bfloat16 [default: auto].
    #[arg(long, value_parser = word::<TrainingDtype>)]
    dtype: Option<TrainingDtype>,
    /// Seed of adapter, order and dropout [default: 0].
    #[arg(long)]
    seed: Option<u32>,
}

impl HyperparameterArgs {
    /// The request's form: the file, where one is given, and the options over it.
    ///
    /// # Errors
    /// The file cannot be read or holds something else than hyperparameters.
    pub(crate) fn into_request(mut self) -> anyhow::Result<HyperparametersRequest> {
        let file = self.file.take();
        let options = self.options();
        match file {
            None => Ok(options),
            Some(file) => override_with(read(&file)?, &options),
        }
    }

    /// What the options say. Full destructuring, so that none can be forgotten.
    fn options(self) -> HyperparametersRequest {
        let Self {
            file: _,
            rank,
            alpha,
            dropout,
            use_rslora,
            targets,
            rank_pattern,
            alpha_pattern,
            layers_to_transform,
            loraplus_lr_ratio,
            learning_rate,
            schedule,
            decay_ratio,
            warmup_ratio,
            weight_decay,
            max_grad_norm,
            epochs,
            max_steps,
            batch_size,
            batch_tokens,
            max_seq_len,
            over_long,
            train_on_inputs,
            eval_fraction,
            eval_every,
            early_stopping_patience,
            early_stopping_threshold,
            load_best_model_at_end,
            checkpoint_every,
            dtype,
            seed,
        } = self;
        HyperparametersRequest {
            rank,
            alpha,
            dropout,
            use_rslora: use_rslora.then_some(true),
            target_modules: targets,
            rank_pattern,
            alpha_pattern,
            layers_to_transform,
            loraplus_lr_ratio,
            learning_rate,
            schedule,
            decay_ratio,
            warmup_ratio,
            weight_decay,
            max_grad_norm,
            epochs,
            max_steps,
            batch_size,
            batch_tokens,
            max_seq_len,
            over_long,
            train_on_inputs: train_on_inputs.then_some(true),
            eval_fraction,
            eval_every,
            early_stopping_patience,
            early_stopping_threshold,
            load_best_model_at_end: load_best_model_at_end.then_some(true),
            checkpoint_every,
            dtype,
            seed,
        }
    }
}

fn read(file: &Path) -> anyhow::Result<HyperparametersRequest> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} does not hold hyperparameters by the API's names",
            file.display()
        )
    })
}

/// `below`, with every value that `above` gives in its place.
fn override_with(
    below: HyperparametersRequest,
    above: &HyperparametersRequest,
) -> anyhow::Result<HyperparametersRequest> {
    let mut merged = given(&below)?;
    let above = given(above)?;
    for pair in ALTERNATIVES {
        if pair.iter().any(|field| above.contains_key(*field)) {
            pair.iter().for_each(|field| drop(merged.remove(*field)));
        }
    }
    merged.extend(above);
    Ok(serde_json::from_value(Value::Object(merged))?)
}

/// The fields that are given.
fn given(request: &HyperparametersRequest) -> serde_json::Result<Map<String, Value>> {
    let mut fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(request)?)?;
    fields.retain(|_, value| !value.is_null());
    Ok(fields)
}

/// Reads a word as the JSON of the API has it, so that both accept the same.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

#[expect(clippy::unnecessary_wraps, reason = "clap's form")]
fn parse_targets(text: &str) -> Result<TargetModulesRequest, String> {
    if text == ALL_LINEAR || text.contains(EXPRESSION) {
        return Ok(TargetModulesRequest::Pattern(text.to_owned()));
    }
    let names = text.split(',').map(|name| name.trim().to_owned());
    Ok(TargetModulesRequest::Names(names.collect()))
}

fn parse_ranks(text: &str) -> Result<BTreeMap<String, LoraRank>, String> {
    parse_pattern(text, LoraRank::new)
}

fn parse_alphas(text: &str) -> Result<BTreeMap<String, LoraAlpha>, String> {
    parse_pattern(text, LoraAlpha::new)
}

/// `name=value,…`
fn parse_pattern<N: std::str::FromStr, V>(
    text: &str,
    bounded: impl Fn(N) -> Result<V, ParameterError>,
) -> Result<BTreeMap<String, V>, String> {
    let entry = |entry: &str| {
        let (name, number) = entry
            .rsplit_once('=')
            .ok_or_else(|| format!("`{entry}` is not of the form name=number"))?;
        let parsed = number
            .trim()
            .parse()
            .map_err(|_| format!("`{number}` is no number here"))?;
        let value = bounded(parsed).map_err(|error| error.message)?;
        Ok((name.trim().to_owned(), value))
    };
    text.split(',').map(entry).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hyperparameters: HyperparameterArgs,
    }

    fn parse(line: &[&str]) -> Result<Value, String> {
        let line = Line::try_parse_from([&["x"], line].concat()).map_err(|error| error.to_string())?;
        let request = line
            .hyperparameters
            .into_request()
            .map_err(|error| format!("{error:#}"))?;
        Ok(Value::Object(given(&request).unwrap()))
    }

    #[test]
    fn every_field_of_the_api_has_an_option() {
        let wanted = json!({
            "rank": 8, "alpha": 12.0, "dropout": 0.1, "use_rslora": true, "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"q_proj": 32, "down_proj": 4}, "alpha_pattern": {"q_proj": 2.5},
            "layers_to_transform": [0, 1], "loraplus_lr_ratio": 16.0, "learning_rate": 1e-3,
            "schedule": "warmup_stable_decay", "decay_ratio": 0.5, "warmup_ratio": 0.25, "weight_decay": 0.01,
            "max_grad_norm": 0.3, "max_steps": 20, "batch_tokens": 4096, "max_seq_len": 32, "over_long": "drop",
            "train_on_inputs": true, "eval_fraction": 0.2, "eval_every": 5, "early_stopping_patience": 3,
            "early_stopping_threshold": 0.01, "load_best_model_at_end": true, "checkpoint_every": 10,
            "dtype": "float32", "seed": 7,
        });
        let line = "--rank 8 --alpha 12 --dropout 0.1 --use-rslora --targets q_proj,v_proj \
             --rank-pattern q_proj=32,down_proj=4 --alpha-pattern q_proj=2.5 --layers-to-transform 0,1 \
             --loraplus-lr-ratio 16 --lr 1e-3 --schedule warmup_stable_decay --decay-ratio 0.5 --warmup-ratio 0.25 \
             --weight-decay 0.01 --max-grad-norm 0.3 --max-steps 20 --batch-tokens 4096 --max-seq-len 32 \
             --over-long drop --train-on-inputs --eval-fraction 0.2 --eval-every 5 --early-stopping-patience 3 \
             --early-stopping-threshold 0.01 --load-best-model-at-end --checkpoint-every 10 --dtype float32 --seed 7";
        let line: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(parse(&line).unwrap(), wanted);
        assert_eq!(
            parse(&["--epochs", "2", "--batch-size", "3"]).unwrap(),
            json!({"epochs": 2, "batch_size": 3})
        );
        let all = serde_json::to_value(HyperparametersRequest::default()).unwrap();
        assert_eq!(
            all.as_object().unwrap().len(),
            wanted.as_object().unwrap().len() + 2
        );
        assert_eq!(parse(&[]).unwrap(), json!({}));
    }

    #[test]
    fn targets_have_three_forms() {
        let targets = |text: &str| parse(&["--targets", text]).unwrap()["target_modules"].clone();
        assert_eq!(targets("all-linear"), json!("all-linear"));
        assert_eq!(targets("q_proj"), json!(["q_proj"]));
        assert_eq!(
            targets("self_attn.q_proj, lm_head"),
            json!(["self_attn.q_proj", "lm_head"])
        );
        for pattern in [r".*\.[qv]_proj", "(q,k)|.*v_proj"] {
            assert_eq!(targets(pattern), json!(pattern));
        }
    }

    #[test]
    fn wrong_words_are_named() {
        let table: [(&[&str], &str); 7] = [
            (
                &["--rank-pattern", "q_proj"],
                "`q_proj` is not of the form name=number",
            ),
            (&["--rank-pattern", "q_proj=many"], "`many` is no number here"),
            (&["--rank-pattern", "q_proj=0"], "from 1 to 256"),
            (&["--alpha-pattern", "q_proj=1,v_proj=0"], "from 0.001 to 4096"),
            (&["--layers-to-transform", "0,x"], "'x'"),
            (
                &["--batch-size", "1", "--batch-tokens", "64"],
                "cannot be used with",
            ),
            (
                &["--hyperparameters", "/nowhere.json"],
                "cannot read /nowhere.json",
            ),
        ];
        for (line, words) in table {
            let said = parse(line).unwrap_err();
            assert!(said.contains(words), "{line:?}: {said}");
        }
    }

    #[test]
    fn options_go_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("knobs.json");
        let file = path.to_str().unwrap();
        let line = |more: &[&str]| parse(&[&["--hyperparameters", file], more].concat());
        fs::write(
            &path,
            r#"{"rank": 4, "epochs": 2, "batch_size": 8, "rank_pattern": {"v_proj": 2}}"#,
        )
        .unwrap();
        assert_eq!(
            line(&["--rank", "8", "--max-steps", "5"]).unwrap(),
            json!({"rank": 8, "max_steps": 5, "batch_size": 8, "rank_pattern": {"v_proj": 2}})
        );
        fs::write(&path, r#"{"lora_rank": 4}"#).unwrap();
        let said = line(&[]).unwrap_err();
        assert!(
            said.contains("knobs.json does not hold") && said.contains("lora_rank"),
            "{said}"
        );
    }
}
