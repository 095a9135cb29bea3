//! From the command line of `train` to the specification that a supervisor would give.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::Kind;
use tunesmith_types::hyperparameters::{HyperparametersRequest, TargetModulesRequest};
use tunesmith_types::trainer::{GangSpec, JobSpec};

use crate::assignment::{Assignment, Extras};
use crate::cli::{Knobs, OrderName, SaveDtype, TrainArgs};
use crate::error::TrainError;

/// The id of the job of `train` in events and commands.
pub const TRAIN: &str = "train";

/// Characters that a list of module names does not have, and almost every regular expression has.
const PATTERN_CHARACTERS: &str = "*+?()[]{}|\\^$";

/// The process without jobs, and its one job.
///
/// # Errors
/// A pattern map cannot be read.
pub fn specification(args: &TrainArgs) -> Result<(GangSpec, Assignment), TrainError> {
    let spec = GangSpec {
        base: args.base.clone(),
        base_name: args.base_name.clone(),
        device: args.device.clone(),
        dtype: args.dtype,
        threads: args.threads,
        micro_batch_tokens: args.micro_batch_tokens,
        activation_bytes: args.activations.activation_bytes,
        jobs: Vec::new(),
    };
    let job = JobSpec {
        id: TRAIN.to_owned(),
        data: args.data.clone(),
        eval: args.eval.clone(),
        out: args.out.clone(),
        init_adapter: args.init_adapter.clone(),
        resume: args.resume.clone(),
        checkpoint_dir: args.checkpoint_dir.clone(),
        keep_checkpoints: args.keep_checkpoints,
        steps_log: args.steps_log.clone(),
        hyperparameters: hyperparameters(args)?,
    };
    let extras = Extras {
        full: args.full.then_some(match args.save_dtype {
            SaveDtype::Float32 => Kind::Float,
            SaveDtype::Bfloat16 => Kind::BFloat16,
        }),
        file_order: args.knobs.order == OrderName::File,
        pack_text: args.knobs.pack_text,
        length_buckets: args.knobs.length_buckets,
    };
    Ok((spec, Assignment { spec: job, extras }))
}

fn hyperparameters(args: &TrainArgs) -> Result<HyperparametersRequest, TrainError> {
    let knobs: &Knobs = &args.knobs;
    Ok(HyperparametersRequest {
        rank: knobs.rank,
        alpha: knobs.alpha,
        dropout: knobs.dropout,
        use_rslora: Some(knobs.rslora),
        target_modules: knobs.targets.as_deref().map(targets),
        rank_pattern: pattern("rank_pattern", knobs.rank_pattern.as_deref())?,
        alpha_pattern: pattern("alpha_pattern", knobs.alpha_pattern.as_deref())?,
        layers_to_transform: knobs.layers_to_transform.clone(),
        loraplus_lr_ratio: knobs.loraplus_lr_ratio,
        learning_rate: knobs.lr,
        schedule: knobs.schedule,
        decay_ratio: knobs.decay_ratio,
        warmup_ratio: knobs.warmup_ratio,
        weight_decay: knobs.weight_decay,
        max_grad_norm: knobs.max_grad_norm,
        epochs: knobs.epochs,
        max_steps: knobs.max_steps,
        batch_size: knobs.batch_size,
        batch_tokens: knobs.batch_tokens,
        max_seq_len: knobs.max_seq_len,
        over_long: knobs.over_long,
        train_on_inputs: Some(knobs.train_on_inputs),
        eval_fraction: Some(args.eval_fraction),
        eval_every: args.eval_every,
        early_stopping_patience: knobs.early_stopping_patience,
        early_stopping_threshold: knobs.early_stopping_threshold,
        load_best_model_at_end: Some(knobs.load_best_model_at_end),
        checkpoint_every: Some(args.checkpoint_every),
        dtype: Some(args.dtype),
        seed: knobs.seed,
    })
}

/// A regular expression where it looks like one, else names.
fn targets(text: &str) -> TargetModulesRequest {
    if text.contains(|character| PATTERN_CHARACTERS.contains(character)) {
        return TargetModulesRequest::Pattern(text.to_owned());
    }
    TargetModulesRequest::Names(text.split(',').map(|name| name.trim().to_owned()).collect())
}

/// `{"q_proj": 8}` or `q_proj=8,v_proj=4`.
fn pattern<V: DeserializeOwned>(
    field: &str,
    text: Option<&str>,
) -> Result<Option<BTreeMap<String, V>>, TrainError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let wrong = |reason: String| TrainError::Arguments(format!("`{field}`: {reason}"));
    let value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?
    } else {
        let entries = text.split(',').map(|entry| {
            let (key, number) = entry
                .rsplit_once('=')
                .ok_or_else(|| wrong(format!("`{entry}` is not `module=number`")))?;
            let number: Value =
                serde_json::from_str(number).map_err(|_| wrong(format!("`{number}` is not a number")))?;
            Ok((key.trim().to_owned(), number))
        });
        Value::Object(entries.collect::<Result<_, TrainError>>()?)
    };
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets_are_names_or_a_pattern() {
        let names = |text: &str| match targets(text) {
            TargetModulesRequest::Names(names) => names.join(" "),
            TargetModulesRequest::Pattern(_) => panic!("{text}"),
        };
        assert_eq!(names("q_proj, self_attn.v_proj"), "q_proj self_attn.v_proj");
        assert_eq!(names("all-linear"), "all-linear");
        let expression = r".*layers\.[0-3]\..*(q|v)_proj";
        assert!(matches!(targets(expression), TargetModulesRequest::Pattern(found) if found == expression));
    }

    #[test]
    fn patterns_are_pairs_or_json() {
        let read = |text: &str| pattern::<u32>("rank_pattern", Some(text));
        let wanted = BTreeMap::from([("q_proj".to_owned(), 8), ("layers.0.mlp.up_proj".to_owned(), 4)]);
        assert_eq!(
            read("q_proj=8,layers.0.mlp.up_proj=4").unwrap(),
            Some(wanted.clone())
        );
        assert_eq!(
            read(r#"{"q_proj": 8, "layers.0.mlp.up_proj": 4}"#).unwrap(),
            Some(wanted)
        );
        for text in ["q_proj", "q_proj=many", "{\"q_proj\": \"8\"}", "{"] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().starts_with("`rank_pattern`"), "{error}");
        }
    }
}
