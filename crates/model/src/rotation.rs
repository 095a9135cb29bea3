//! Rotary position embedding: pairs of a head's dimensions are turned by an angle that grows with the position.
//!
//! Frequencies and angles are float32 throughout, as in transformers, and only the finished cosines and sines are cast.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::rope::{RopeScaling, RopeSettings};

/// The frequencies of one rotary embedding, on the model's device.
#[derive(Debug)]
pub(crate) struct Rope {
    /// float32 `[rotary_dim / 2]`.
    inverse_frequencies: Tensor,
    /// For sequences of more tokens than the number.
    long: Option<(f64, Tensor)>,
    /// Multiplies cosines and sines.
    attention_factor: f64,
}

/// Where the tokens of a pass stand, int64 `[tokens]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// In their sequence, from 0.
    pub(crate) positions: &'a Tensor,
    /// How many tokens their sequence has, as far as it is known in this pass.
    pub(crate) lengths: &'a Tensor,
}

/// Cosines and sines for the tokens of one batch, `[tokens, 1, rotary_dim]`, in the model's kind.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    rotary_dim: i64,
}

impl Rope {
    pub(crate) fn new(settings: &RopeSettings, device: Device) -> Result<Self, ModelError> {
        // The same float32 operations in the same order as transformers, so that far positions agree too.
        let cpu = (Kind::Float, Device::Cpu);
        let exponents = Tensor::f_arange_start_step(0, settings.rotary_dim, 2, cpu)?
            .f_divide_scalar(settings.rotary_dim as f64)?;
        let wavelengths = Tensor::f_scalar_tensor(settings.theta, cpu)?.f_pow(&exponents)?;
        let divided = |factors: &[f64]| -> Result<Tensor, ModelError> {
            let factors = Tensor::f_from_slice(factors)?.f_to_kind(Kind::Float)?;
            Ok(factors.f_mul(&wavelengths)?.f_reciprocal()?.f_to_device(device)?)
        };
        let plain = wavelengths.f_reciprocal()?;
        let (short, long, attention_factor) = match &settings.scaling {
            RopeScaling::Default => (plain, None, 1.0),
            RopeScaling::Linear { factor } => (plain.f_divide_scalar(*factor)?, None, 1.0),
            RopeScaling::Llama3 {
                factor,
                low_factor,
                high_factor,
                original_positions,
            } => {
                let factors = [*factor, *low_factor, *high_factor];
                (llama3(&plain, factors, *original_positions)?, None, 1.0)
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_positions,
                attention_factor,
            } => (
                divided(short_factor)?,
                Some((*original_positions, divided(long_factor)?)),
                *attention_factor,
            ),
        };
        Ok(Self {
            inverse_frequencies: short.f_to_device(device)?,
            long,
            attention_factor,
        })
    }

    /// Cosines and sines, float32 `[tokens, rotary_dim / 2]` each.
    ///
    /// Which set of longrope's factors serves is decided for each sequence by its own length, so that no sequence feels
    /// its neighbours in a batch. transformers decides by the longest of the batch; for one sequence it is the same.
    pub(crate) fn cos_sin(&self, places: Places<'_>) -> Result<(Tensor, Tensor), ModelError> {
        let positions = places.positions.f_to_kind(Kind::Float)?.f_unsqueeze(1)?;
        let angles = match &self.long {
            None => positions.f_mul(&self.inverse_frequencies)?,
            Some((limit, long)) => {
                let is_long = places.lengths.f_gt(*limit)?.f_unsqueeze(1)?;
                positions.f_mul(&long.f_where_self(&is_long, &self.inverse_frequencies)?)?
            }
        };
        let scaled = |x: Tensor| match self.attention_factor {
            1.0 => Ok(x),
            factor => x.f_multiply_scalar(factor),
        };
        Ok((scaled(angles.f_cos()?)?, scaled(angles.f_sin()?)?))
    }

    /// Whether a sequence that grows from `seen` to `length` tokens gets other frequencies, for its old tokens too.
    pub(crate) fn changes(&self, seen: usize, length: usize) -> bool {
        let is_long = |tokens: usize| {
            self.long
                .as_ref()
                .is_some_and(|(limit, _)| tokens as f64 > *limit)
        };
        seen > 0 && is_long(seen) != is_long(length)
    }

    pub(crate) fn rotation(&self, places: Places<'_>, kind: Kind) -> Result<Rotation, ModelError> {
        let (cos, sin) = self.cos_sin(places)?;
        let both = |x: &Tensor| -> Result<Tensor, ModelError> {
            Ok(Tensor::f_cat(&[x, x], 1)?.f_unsqueeze(1)?.f_to_kind(kind)?)
        };
        Ok(Rotation {
            rotary_dim: cos.size()[1] * 2,
            cos: both(&cos)?,
            sin: both(&sin)?,
        })
    }
}

/// `factors`: of the long wavelengths, and the two that say which are long and which short.
fn llama3(plain: &Tensor, factors: [f64; 3], original_positions: f64) -> Result<Tensor, ModelError> {
    let [factor, low_factor, high_factor] = factors;
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
        .f_add(&smooth.f_mul(plain)?)?;
    Ok(stretched.f_where_self(&long, &plain.f_where_self(&short, &blended)?)?)
}

impl Rotation {
    /// Turns the first `rotary_dim` of `x: [tokens, heads, head_dim]`: `x * cos + rotate_half(x) * sin`.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let width = x.size()[2];
        if self.rotary_dim == width {
            return self.turn(x);
        }
        let turned = self.turn(&x.f_narrow(2, 0, self.rotary_dim)?)?;
        let kept = x.f_narrow(2, self.rotary_dim, width - self.rotary_dim)?;
        Ok(Tensor::f_cat(&[turned, kept], 2)?)
    }

    fn turn(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let half = self.rotary_dim / 2;
        let (first, second) = (x.f_narrow(2, 0, half)?, x.f_narrow(2, half, half)?);
        let turned = Tensor::f_cat(&[second.f_neg()?, first], 2)?;
        Ok(x.f_mul(&self.cos)?.f_add(&turned.f_mul(&self.sin)?)?)
    }
}
