//! A linear layer of the base model.

use crate::modules::LinearLayer;
use tch::Tensor;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::weights::{Weights, linear_has_bias, linear_path};

/// `y = x Wᵀ + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: Tensor,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn take(
        weights: &mut Weights,
        config: &ModelConfig,
        layer: usize,
        linear: LinearLayer,
    ) -> Self {
        let prefix = format!("model.layers.{layer}.{}", linear_path(linear));
        Self {
            weight: weights.take(&format!("{prefix}.weight")),
            bias: linear_has_bias(config, linear).then(|| weights.take(&format!("{prefix}.bias"))),
        }
    }

    /// `x: [tokens, in]` to `[tokens, out]`, in the kind of `x` whatever the weight is kept in.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        Ok(x.f_linear(&self.weight.f_to_kind(kind)?, bias.as_ref())?)
    }
}
