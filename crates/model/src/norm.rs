//! RMSNorm.

use tch::{Kind, Tensor};

use crate::error::ModelError;

/// `x / sqrt(mean(x²) + eps) * weight`, the quotient in float32, the product in the kind of `x`.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// `[hidden]`.
    pub(crate) weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn new(weight: Tensor, epsilon: f64) -> Self {
        Self { weight, epsilon }
    }

    /// `x: [tokens, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let wide = x.f_to_kind(Kind::Float)?;
        let mean_square = wide.f_square()?.f_mean_dim(-1, true, None)?;
        let unit = wide.f_mul(&mean_square.f_add_scalar(self.epsilon)?.f_rsqrt()?)?;
        Ok(unit.f_to_kind(kind)?.f_mul(&self.weight.f_to_kind(kind)?)?)
    }
}
