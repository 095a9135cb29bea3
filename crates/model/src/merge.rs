//! An adapter folded into the base weights: `W' = W + s · B A`.

use serde_json::Value;
use tch::{Kind, Tensor, no_grad_guard};

use crate::adapter::{Adapter, LoraPair};
use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::modules::Site;

impl CausalLm {
    /// Folds `adapter` into the weights for good, computed in float32 and rounded once. The model then gives without an
    /// adapter what it gave with it, and can be saved as a model of its own.
    ///
    /// An adapter of the embedding or of the output head changes one of the two only. Where the base model has one
    /// tensor for both, it gets two: `tie_word_embeddings` becomes false.
    ///
    /// # Errors
    /// There is no memory for it; layers before the failing one are changed, so drop the model.
    pub fn merge(&mut self, adapter: &Adapter) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        if adapter.embedding().is_some() || adapter.head().is_some() {
            self.untie()?;
        }
        for pair in adapter.pairs() {
            match pair.site {
                Site::Embedding => add(&self.embedding, &delta(pair)?.f_transpose(0, 1)?)?,
                Site::Head => add(self.head_weight(), &delta(pair)?)?,
                Site::Block { layer, module } => {
                    let module = &self.config.modules[module];
                    let weight = &self.blocks[layer].projections[module.projection as usize].weight;
                    let rows = weight.f_narrow(0, module.rows.start, module.outputs())?;
                    add(&rows, &delta(pair)?)?;
                }
            }
        }
        Ok(())
    }

    fn untie(&mut self) -> Result<(), ModelError> {
        if self.head.is_none() {
            let mut head = self.embedding.f_empty_like()?;
            head.f_copy_(&self.embedding)?;
            self.head = Some(head);
            self.config.tie_word_embeddings = false;
            let field = "tie_word_embeddings".to_owned();
            self.config.source.insert(field, Value::Bool(false));
        }
        Ok(())
    }
}

/// `s · B A`, float32 `[out, in]`.
fn delta(pair: &LoraPair) -> Result<Tensor, ModelError> {
    let wide = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
    Ok(wide(&pair.b)?
        .f_matmul(&wide(&pair.a)?)?
        .f_multiply_scalar(pair.scale)?)
}

fn add(weight: &Tensor, delta: &Tensor) -> Result<(), ModelError> {
    let merged = weight
        .f_to_kind(Kind::Float)?
        .f_add(&delta.f_to_device(weight.device())?)?;
    Ok(weight.shallow_clone().f_copy_(&merged)?)
}
