//! Why each hyperparameter that was not asked for is what it is.

use std::collections::BTreeMap;

use tunesmith_types::hyperparameters::{AdapterShape, HyperparametersRequest, Schedule, TrainingDtype};

/// Reasons by field. `limit`: tokens of the base model's longest sequence; `parent`: the version that the training begins
/// with.
pub(super) fn reasons(
    asked: &HyperparametersRequest,
    limit: Option<u32>,
    parent: Option<&str>,
) -> BTreeMap<String, String> {
    let reason = |field| match parent {
        Some(parent) if AdapterShape::FIELDS.contains(&field) => format!("as in {parent}"),
        _ => reason(field, asked, limit),
    };
    let mut reasons: BTreeMap<String, String> = absent(asked)
        .into_iter()
        .filter(|(_, absent)| *absent)
        .map(|(field, _)| (field.to_owned(), reason(field)))
        .collect();
    if asked.dtype.unwrap_or_default() == TrainingDtype::Auto {
        let reason = "auto: the worker takes bfloat16 where its device is quick with it, else float32";
        reasons.insert("dtype".to_owned(), reason.to_owned());
    }
    reasons
}

/// Every field of the answer, and whether it was not asked for. Full destructuring, so that none can be forgotten.
fn absent(asked: &HyperparametersRequest) -> Vec<(&'static str, bool)> {
    let HyperparametersRequest {
        rank,
        alpha,
        dropout,
        use_rslora,
        target_modules,
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
    } = asked;
    vec![
        ("rank", rank.is_none()),
        ("alpha", alpha.is_none()),
        ("dropout", dropout.is_none()),
        ("use_rslora", use_rslora.is_none()),
        ("target_modules", target_modules.is_none()),
        ("rank_pattern", rank_pattern.is_none()),
        ("alpha_pattern", alpha_pattern.is_none()),
        ("layers_to_transform", layers_to_transform.is_none()),
        ("loraplus_lr_ratio", loraplus_lr_ratio.is_none()),
        ("learning_rate", learning_rate.is_none()),
        ("schedule", schedule.is_none()),
        ("decay_ratio", decay_ratio.is_none()),
        ("warmup_ratio", warmup_ratio.is_none()),
        ("weight_decay", weight_decay.is_none()),
        ("max_grad_norm", max_grad_norm.is_none()),
        ("epochs", epochs.is_none() && max_steps.is_none()),
        ("batch_size", batch_size.is_none() && batch_tokens.is_none()),
        ("max_seq_len", max_seq_len.is_none()),
        ("over_long", over_long.is_none()),
        ("train_on_inputs", train_on_inputs.is_none()),
        ("eval_fraction", eval_fraction.is_none()),
        ("eval_every", eval_every.is_none()),
        ("early_stopping_patience", early_stopping_patience.is_none()),
        ("early_stopping_threshold", early_stopping_threshold.is_none()),
        ("load_best_model_at_end", load_best_model_at_end.is_none()),
        ("checkpoint_every", checkpoint_every.is_none()),
        ("dtype", dtype.is_none()),
        ("seed", seed.is_none()),
    ]
}

fn reason(field: &str, asked: &HyperparametersRequest, limit: Option<u32>) -> String {
    let why = match field {
        "alpha" => "twice the rank",
        "target_modules" => "every linear layer",
        "rank_pattern" => "one rank for all modules",
        "alpha_pattern" => "one alpha for all modules",
        "layers_to_transform" => "every block",
        "loraplus_lr_ratio" => "one learning rate for A and B",
        "decay_ratio" if asked.schedule != Some(Schedule::WarmupStableDecay) => {
            "without effect under this schedule"
        }
        "train_on_inputs" => "only what the assistant says is learnt",
        "eval_every" => "once per epoch",
        "early_stopping_patience" => "never",
        "early_stopping_threshold" if asked.early_stopping_patience.is_none() => {
            "without effect without early_stopping_patience"
        }
        "load_best_model_at_end" => "the last adapter is delivered",
        "max_seq_len" => {
            return match limit {
                Some(limit) if limit < 2048 => format!("the base model's limit of {limit} tokens"),
                _ => "default".to_owned(),
            };
        }
        _ => return "default".to_owned(),
    };
    format!("default: {why}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_field_of_the_answer_has_a_reason_unless_it_was_asked_for() {
        let asked = HyperparametersRequest::default();
        let resolved = serde_json::to_value(asked.resolve(None).unwrap()).unwrap();
        let fields: std::collections::BTreeSet<&String> = resolved.as_object().unwrap().keys().collect();
        let reasons = reasons(&asked, None, None);
        assert!(reasons.keys().eq(fields), "{reasons:?}");
        let asked = HyperparametersRequest {
            batch_tokens: Some(4096),
            max_steps: Some(1),
            dtype: Some(TrainingDtype::Float32),
            ..Default::default()
        };
        let reasons = super::reasons(&asked, Some(512), Some("support@3"));
        for field in ["batch_size", "batch_tokens", "epochs", "max_steps", "dtype"] {
            assert!(!reasons.contains_key(field), "{field}");
        }
        assert_eq!(reasons["max_seq_len"], "the base model's limit of 512 tokens");
        assert_eq!(
            (reasons["rank"].as_str(), reasons["dropout"].as_str()),
            ("as in support@3", "default")
        );
    }
}
