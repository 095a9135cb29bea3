//! How a model's rotary position embeddings are made, as `config.json` says it.

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::config_file::{RawConfig, unsupported};
use crate::error::ModelError;
use crate::families::Facts;

/// One rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSettings {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// How many of a head's dimensions are turned, the first ones; even.
    pub rotary_dim: i64,
}

/// How rotary frequencies are stretched to reach beyond the length of the pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, those between blended.
    Llama3 {
        /// Divides the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low_factor` are long.
        low_factor: f64,
        /// Wavelengths below `original_positions / high_factor` are short.
        high_factor: f64,
        /// Context length of the pre-training, in tokens.
        original_positions: f64,
    },
    /// Phi-3: each frequency divided by a factor of its own, one set for sequences of up to `original_positions` tokens,
    /// another for longer ones.
    LongRope {
        /// One per frequency, for short sequences.
        short_factor: Vec<f64>,
        /// One per frequency, for long sequences.
        long_factor: Vec<f64>,
        /// Length of the longest short sequence, in tokens.
        original_positions: f64,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
    },
}

impl RopeSettings {
    /// The rope of a model, or two: of the blocks without and with a window.
    pub(crate) fn of(raw: &RawConfig, facts: &Facts, config: &ModelConfig) -> Result<Vec<Self>, ModelError> {
        // transformers 5 writes `rope_parameters`, one map or one per kind of block; older ones `rope_scaling`.
        let nested = |kind: &str| {
            raw.rope_parameters
                .as_ref()
                .and_then(|map| map.get(kind))
                .and_then(Value::as_object)
        };
        let global = nested("full_attention")
            .or(raw.rope_parameters.as_ref())
            .or(raw.rope_scaling.as_ref());
        let reader = Reader { raw, facts, config };
        let theta = raw.rope_theta.unwrap_or(facts.theta);
        let mut ropes = vec![reader.settings(global, theta)?];
        if let Some(default) = facts.local_theta {
            let theta = raw.rope_local_base_freq.unwrap_or(default);
            ropes.push(reader.settings(nested("sliding_attention"), theta)?);
        }
        Ok(ropes)
    }
}

/// Reads one map of rope parameters.
struct Reader<'a> {
    raw: &'a RawConfig,
    facts: &'a Facts,
    config: &'a ModelConfig,
}

impl Reader<'_> {
    /// `theta`: where the map does not say it.
    fn settings(&self, map: Option<&Map<String, Value>>, theta: f64) -> Result<RopeSettings, ModelError> {
        let in_map = |field: &str| map.and_then(|map| map.get(field)).and_then(Value::as_f64);
        let theta = in_map("rope_theta").unwrap_or(theta);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(ModelError::InvalidConfig(
                "`rope_theta` must be positive".to_owned(),
            ));
        }
        let share = in_map("partial_rotary_factor").or(self.raw.partial_rotary_factor);
        let rotary_dim = self.rotary_dim(share.unwrap_or(1.0))?;
        Ok(RopeSettings {
            theta,
            scaling: self.scaling(map, rotary_dim)?,
            rotary_dim,
        })
    }

    fn rotary_dim(&self, share: f64) -> Result<i64, ModelError> {
        if share != 1.0 && !self.facts.partial_rotary {
            return Err(unsupported(
                "partial_rotary_factor",
                &Value::from(share),
                "heads of this family are rotated as a whole",
            ));
        }
        let width = (self.config.head_dim as f64 * share) as i64;
        if !(0.0..=1.0).contains(&share) || width < 2 || width % 2 != 0 {
            return Err(ModelError::InvalidConfig(format!(
                "`partial_rotary_factor` {share} leaves {width} of {} dimensions to rotate; it must be an even number",
                self.config.head_dim
            )));
        }
        Ok(width)
    }

    fn scaling(&self, map: Option<&Map<String, Value>>, rotary_dim: i64) -> Result<RopeScaling, ModelError> {
        let Some(map) = map else {
            return Ok(RopeScaling::Default);
        };
        let number = |field: &str| positive(map, field);
        let name = map
            .get("rope_type")
            .or_else(|| map.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        match name {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear {
                factor: number("factor")?,
            }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_factor: number("low_freq_factor")?,
                high_factor: number("high_freq_factor")?,
                original_positions: number("original_max_position_embeddings")?,
            }),
            "longrope" => self.longrope(map, rotary_dim),
            other if self.facts.longrope_alias == Some(other) => self.longrope(map, rotary_dim),
            other => Err(unsupported(
                "rope_type",
                &Value::from(other),
                "built in are default, linear, llama3 and longrope",
            )),
        }
    }

    fn longrope(&self, map: &Map<String, Value>, rotary_dim: i64) -> Result<RopeScaling, ModelError> {
        let field = "original_max_position_embeddings";
        let longest = self.config.max_positions as f64;
        let original_positions = match (self.raw.original_max_position_embeddings, map.contains_key(field)) {
            (Some(beside), _) => beside,
            // A family that keeps the field beside the map has a default for it, which transformers prefers to the map.
            (None, true) if self.facts.original_positions.is_none() => positive(map, field)?,
            (None, _) => self.facts.original_positions.unwrap_or(longest),
        };
        if !(original_positions.is_finite() && original_positions > 1.0) {
            return Err(ModelError::InvalidConfig(format!("`{field}` must be above 1")));
        }
        let optional = |name: &str| {
            map.get(name)
                .filter(|value| !value.is_null())
                .map(|_| positive(map, name))
                .transpose()
        };
        let factor = optional("factor")?.unwrap_or(longest / original_positions);
        let attention_factor = match optional("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original_positions.ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor: factors(map, "short_factor", rotary_dim)?,
            long_factor: factors(map, "long_factor", rotary_dim)?,
            original_positions,
            attention_factor,
        })
    }
}

fn positive(map: &Map<String, Value>, field: &str) -> Result<f64, ModelError> {
    map.get(field)
        .and_then(Value::as_f64)
        .filter(|value| value.is_finite() && *value > 0.0)
        .ok_or_else(|| {
            ModelError::InvalidConfig(format!("rope scaling needs a positive number in `{field}`"))
        })
}

fn factors(map: &Map<String, Value>, field: &str, rotary_dim: i64) -> Result<Vec<f64>, ModelError> {
    let wanted = (rotary_dim / 2) as usize;
    map.get(field)
        .and_then(Value::as_array)
        .map(|list| {
            list.iter()
                .filter_map(Value::as_f64)
                .filter(|factor| factor.is_finite() && *factor > 0.0)
                .collect::<Vec<_>>()
        })
        .filter(|list| list.len() == wanted)
        .ok_or_else(|| {
            ModelError::InvalidConfig(format!(
                "rope scaling needs {wanted} positive numbers in `{field}`"
            ))
        })
}
