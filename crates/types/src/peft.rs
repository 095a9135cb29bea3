//! PEFT's `adapter_config.json`: what of it is not built in, so that reading an adapter and importing one refuse the same,
//! and what it multiplies a module's `B A` with.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::hyperparameters::ModulePattern;

/// Fields that change an adapter's effect in a way that is not built in, unless they are absent, null, false or empty.
/// Fields that only say how training began or where files lay do not matter.
pub const REFUSED_FIELDS: [&str; 13] = [
    "modules_to_save",
    "ensure_weight_tying",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "exclude_modules",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];

/// Values of `init_lora_weights` that also change the base model's weights: the adapter is wrong on the weights as
/// published.
pub const REFUSED_BEGINNINGS: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// What `B A` of each module is multiplied with.
#[derive(Debug)]
pub struct Scales {
    alpha: f64,
    use_rslora: bool,
    alphas: Vec<(ModulePattern, f64)>,
}

/// The fields that decide it.
#[derive(Deserialize)]
struct ScaleFields {
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
}

impl Scales {
    /// Out of an `adapter_config.json`. Keys of `alpha_pattern` are tried in the order of their letters, as everywhere.
    ///
    /// # Errors
    /// A field is missing or of another type, or a key is no regular expression.
    pub fn read(config: &[u8]) -> Result<Self, ScalesError> {
        let fields: ScaleFields = serde_json::from_slice(config)?;
        let alphas = fields.alpha_pattern.unwrap_or_default().into_iter();
        let alphas = alphas.map(|(key, alpha)| Ok((ModulePattern::compile(&key)?, alpha)));
        Ok(Self {
            alpha: fields.lora_alpha,
            use_rslora: fields.use_rslora,
            alphas: alphas.collect::<Result<_, ScalesError>>()?,
        })
    }

    /// That of `module`, by its full name, whose `A` has `rank` rows.
    #[must_use]
    pub fn of(&self, module: &str, rank: usize) -> f64 {
        let own = self.alphas.iter().find(|(pattern, _)| pattern.fits(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// Why no scales can be read.
#[derive(Debug, thiserror::Error)]
pub enum ScalesError {
    /// It is not such a file.
    #[error("adapter_config.json cannot be read: {0}")]
    Config(#[from] serde_json::Error),
    /// A key of a pattern is none.
    #[error("`alpha_pattern` has a key that is no regular expression")]
    Pattern(#[from] regex::Error),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn scales_are_pefts() {
        let config = json!({"r": 8, "lora_alpha": 16, "alpha_pattern": {"v_proj": 4, "1.mlp.*": 32}});
        let scales = Scales::read(config.to_string().as_bytes()).unwrap();
        for (module, rank, scale) in [
            ("model.layers.0.self_attn.q_proj", 8, 2.0),
            ("model.layers.0.self_attn.q_proj", 32, 0.5),
            ("model.layers.0.self_attn.v_proj", 8, 0.5),
            ("model.layers.1.mlp.up_proj", 8, 4.0),
            ("model.layers.11.mlp.up_proj", 8, 2.0),
        ] {
            assert!((scales.of(module, rank) - scale).abs() < 1e-12, "{module} {rank}");
        }
        let config = json!({"lora_alpha": 16, "use_rslora": true, "alpha_pattern": null});
        let scales = Scales::read(config.to_string().as_bytes()).unwrap();
        assert!((scales.of("lm_head", 16) - 4.0).abs() < 1e-12);
        for wrong in [json!({}), json!({"lora_alpha": 1, "alpha_pattern": {"(": 1}})] {
            assert!(Scales::read(wrong.to_string().as_bytes()).is_err(), "{wrong}");
        }
    }
}
