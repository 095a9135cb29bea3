//! An adapter folded into the base weights: `W' = W + s · B A`.

use crate::modules::LinearLayer;
use tch::{Kind, Tensor, no_grad_guard};

use crate::adapter::Adapter;
use crate::causal_lm::CausalLm;
use crate::error::ModelError;

impl CausalLm {
    /// Folds `adapter` into the weights for good, computed in float32 and rounded once. The model then gives without an
    /// adapter what it gave with it, and can be saved as a model of its own.
    ///
    /// # Errors
    /// There is no memory for it; layers before the failing one are changed, so drop the model.
    pub fn merge(&mut self, adapter: &Adapter) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        let scale = adapter.settings().scale();
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for linear in LinearLayer::ALL {
                let Some(pair) = adapter.pair(layer, linear) else {
                    continue;
                };
                let weight: &mut Tensor = &mut block.linears[linear as usize].weight;
                let wide = |tensor: &Tensor| tensor.f_to_device(weight.device())?.f_to_kind(Kind::Float);
                let delta = wide(&pair.b)?
                    .f_matmul(&wide(&pair.a)?)?
                    .f_multiply_scalar(scale)?;
                let merged = weight.f_to_kind(Kind::Float)?.f_add(&delta)?;
                *weight = merged.f_to_kind(weight.f_kind()?)?;
            }
        }
        Ok(())
    }
}
