//! Rotary position embedding: pairs of a head's dimensions are turned by an angle that grows with the position.
//!
//! Frequencies and angles are float32 throughout, as in transformers, and only the finished cosines and sines are cast.

use std::f64::consts::PI;

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::ModelError;

/// How rotary frequencies are stretched to reach beyond the length of the pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
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
}

impl RopeScaling {
    /// Reads `rope_scaling` (transformers before 5) or `rope_parameters` (from 5 on).
    pub(crate) fn parse(map: Option<&Map<String, Value>>) -> Result<Self, ModelError> {
        let Some(map) = map else { return Ok(Self::Default) };
        let number = |field: &str| {
            map.get(field)
                .and_then(Value::as_f64)
                .filter(|value| value.is_finite() && *value > 0.0)
                .ok_or_else(|| {
                    ModelError::InvalidConfig(format!("rope scaling needs a positive number in `{field}`"))
                })
        };
        let name = map
            .get("rope_type")
            .or_else(|| map.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        match name {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear {
                factor: number("factor")?,
            }),
            "llama3" => Ok(Self::Llama3 {
                factor: number("factor")?,
                low_factor: number("low_freq_factor")?,
                high_factor: number("high_freq_factor")?,
                original_positions: number("original_max_position_embeddings")?,
            }),
            other => Err(ModelError::UnsupportedFeature {
                field: "rope_type".to_owned(),
                value: format!("\"{other}\""),
                reason: "built in are default, linear and llama3".to_owned(),
            }),
        }
    }
}

/// The rotary frequencies of a model, on its device.
#[derive(Debug)]
pub(crate) struct Rope {
    /// float32 `[head_dim / 2]`.
    inverse_frequencies: Tensor,
    kind: Kind,
}

/// Cosines and sines for the tokens of one batch, `[tokens, 1, head_dim]`, in the model's kind.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(crate) fn new(config: &ModelConfig, device: Device, kind: Kind) -> Result<Self, ModelError> {
        // The same float32 operations in the same order as transformers, so that far positions agree too.
        let exponents = Tensor::f_arange_start_step(0, config.head_dim, 2, (Kind::Float, Device::Cpu))?
            .f_divide_scalar(config.head_dim as f64)?;
        let base = Tensor::f_scalar_tensor(config.rope_theta, (Kind::Float, Device::Cpu))?;
        let plain = base.f_pow(&exponents)?.f_reciprocal()?;
        let scaled = match config.rope_scaling {
            RopeScaling::Default => plain,
            RopeScaling::Linear { factor } => plain.f_divide_scalar(factor)?,
            RopeScaling::Llama3 {
                factor,
                low_factor,
                high_factor,
                original_positions,
            } => {
                let wavelengths = plain.f_reciprocal()?.f_multiply_scalar(2.0 * PI)?;
                let stretched = plain.f_divide_scalar(factor)?;
                let long = wavelengths.f_gt(original_positions / low_factor)?;
                let short = wavelengths.f_lt(original_positions / high_factor)?;
                let smooth = wavelengths
                    .f_reciprocal()?
                    .f_multiply_scalar(original_positions)?
                    .f_subtract_scalar(low_factor)?
                    .f_divide_scalar(high_factor - low_factor)?;
                let blended = smooth
                    .f_neg()?
                    .f_add_scalar(1.0)?
                    .f_mul(&stretched)?
                    .f_add(&smooth.f_mul(&plain)?)?;
                stretched.f_where_self(&long, &plain.f_where_self(&short, &blended)?)?
            }
        };
        Ok(Self {
            inverse_frequencies: scaled.f_to_device(device)?,
            kind,
        })
    }

    /// `positions`: int64 `[tokens]`.
    pub(crate) fn rotation(&self, positions: &Tensor) -> Result<Rotation, ModelError> {
        let angles = positions
            .f_to_kind(Kind::Float)?
            .f_unsqueeze(1)?
            .f_mul(&self.inverse_frequencies)?;
        let both = Tensor::f_cat(&[&angles, &angles], 1)?.f_unsqueeze(1)?;
        Ok(Rotation {
            cos: both.f_cos()?.f_to_kind(self.kind)?,
            sin: both.f_sin()?.f_to_kind(self.kind)?,
        })
    }
}

impl Rotation {
    /// Turns `x: [tokens, heads, head_dim]`: `x * cos + rotate_half(x) * sin`.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let half = x.size()[2] / 2;
        let (first, second) = (x.f_narrow(2, 0, half)?, x.f_narrow(2, half, half)?);
        let turned = Tensor::f_cat(&[second.f_neg()?, first], 2)?;
        Ok(x.f_mul(&self.cos)?.f_add(&turned.f_mul(&self.sin)?)?)
    }
}
