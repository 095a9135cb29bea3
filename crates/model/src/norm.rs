//! RMSNorm.

use tch::{Kind, Tensor};

use crate::error::ModelError;

/// `x / sqrt(mean(x²) + eps) * (offset + weight)` over the last dimension, the quotient in float32. Without an offset
/// the product is made in the kind of `x`, with one in float32: as the families do it themselves.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// `[width]`, as in the file.
    pub(crate) weight: Tensor,
    pub(crate) epsilon: f64,
    pub(crate) offset: f64,
}

impl RmsNorm {
    /// `offset + weight` in float32, as the fused kernels take it.
    pub(crate) fn effective_weight(&self) -> Result<Tensor, ModelError> {
        let weight = self.weight.f_to_kind(Kind::Float)?;
        Ok(if self.offset == 0.0 {
            weight
        } else {
            weight.f_add_scalar(self.offset)?
        })
    }

    /// `x: [.., width]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let wide = x.f_to_kind(Kind::Float)?;
        let mean_square = wide.f_square()?.f_mean_dim(-1, true, None)?;
        let unit = wide.f_mul(&mean_square.f_add_scalar(self.epsilon)?.f_rsqrt()?)?;
        if self.offset == 0.0 {
            return Ok(unit.f_to_kind(kind)?.f_mul(&self.weight.f_to_kind(kind)?)?);
        }
        let weight = self.weight.f_to_kind(Kind::Float)?.f_add_scalar(self.offset)?;
        Ok(unit.f_mul(&weight)?.f_to_kind(kind)?)
    }
}
