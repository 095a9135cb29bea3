//! Hyperparameters of a job as a request that resolves to the same ones: so they travel to the trainer.

use super::{Batch, Duration, Hyperparameters, HyperparametersRequest, Schedule};

impl From<&Hyperparameters> for HyperparametersRequest {
    fn from(resolved: &Hyperparameters) -> Self {
        let (epochs, max_steps) = match resolved.duration {
            Duration::Epochs(epochs) => (Some(epochs.get()), None),
            Duration::MaxSteps(steps) => (None, Some(steps.get())),
        };
        let (batch_size, batch_tokens) = match resolved.batch {
            Batch::BatchSize(size) => (Some(size.get()), None),
            Batch::BatchTokens(tokens) => (None, Some(tokens.get())),
        };
        Self {
            rank: Some(resolved.rank.get()),
            alpha: Some(resolved.alpha.get()),
            dropout: Some(resolved.dropout.get()),
            use_rslora: Some(resolved.use_rslora),
            target_modules: Some(resolved.target_modules.clone().into()),
            rank_pattern: Some(resolved.rank_pattern.clone()),
            alpha_pattern: Some(resolved.alpha_pattern.clone()),
            layers_to_transform: resolved.layers_to_transform.clone(),
            loraplus_lr_ratio: Some(resolved.loraplus_lr_ratio.get()),
            learning_rate: Some(resolved.learning_rate.get()),
            schedule: Some(resolved.schedule),
            // Refused where it does nothing.
            decay_ratio: (resolved.schedule == Schedule::WarmupStableDecay)
                .then(|| resolved.decay_ratio.get()),
            warmup_ratio: Some(resolved.warmup_ratio.get()),
            weight_decay: Some(resolved.weight_decay.get()),
            max_grad_norm: Some(resolved.max_grad_norm.get()),
            epochs,
            max_steps,
            batch_size,
            batch_tokens,
            max_seq_len: Some(resolved.max_seq_len.get()),
            over_long: Some(resolved.over_long),
            train_on_inputs: Some(resolved.train_on_inputs),
            eval_fraction: Some(resolved.eval_fraction.get()),
            eval_every: resolved.eval_every.map(|steps| steps.get()),
            early_stopping_patience: resolved.early_stopping_patience.map(|patience| patience.get()),
            early_stopping_threshold: resolved
                .early_stopping_patience
                .map(|_| resolved.early_stopping_threshold.get()),
            load_best_model_at_end: Some(resolved.load_best_model_at_end),
            checkpoint_every: Some(resolved.checkpoint_every.get()),
            dtype: Some(resolved.dtype),
            seed: Some(resolved.seed.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_restated_request_resolves_to_the_same_hyperparameters() {
        let every_field = json!({
            "rank": 3, "alpha": 0.1, "dropout": 0.3, "use_rslora": true, "target_modules": ["v_proj", "q_proj"],
            "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"q_proj": 0.7}, "layers_to_transform": [1, 0],
            "loraplus_lr_ratio": 16.0, "learning_rate": 3e-4, "schedule": "warmup_stable_decay", "decay_ratio": 0.2,
            "warmup_ratio": 0.05, "weight_decay": 0.01, "max_grad_norm": 0.0, "max_steps": 7, "batch_tokens": 4096,
            "max_seq_len": 77, "over_long": "drop", "train_on_inputs": true, "eval_fraction": 0.1, "eval_every": 2,
            "early_stopping_patience": 3, "early_stopping_threshold": 0.25, "load_best_model_at_end": true,
            "checkpoint_every": 0, "dtype": "bfloat16", "seed": 5,
        });
        for request in [
            every_field,
            json!({}),
            json!({"epochs": 2, "batch_size": 4, "target_modules": ".*q_proj"}),
        ] {
            let request: HyperparametersRequest = serde_json::from_value(request).unwrap();
            let resolved = request.resolve(None).unwrap();
            let restated = HyperparametersRequest::from(&resolved);
            let text = serde_json::to_string(&restated).unwrap();
            let read: HyperparametersRequest = serde_json::from_str(&text).unwrap();
            assert_eq!(read.resolve(None).unwrap(), resolved);
        }
    }
}
