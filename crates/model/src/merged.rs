//! Base weights with one adapter folded in, kept beside the base model's own: a step in which every sequence is on that
//! adapter then costs what one of the bare base model does.

use tch::{Kind, Tensor, no_grad_guard};

use crate::adapter::Adapter;
use crate::causal_lm::CausalLm;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::merge::delta;
use crate::modules::Projection;

/// `W + s · B A` of every product of the blocks that the adapter changes. Embedding and output head are not folded; steps
/// add to them as ever.
#[derive(Debug, Default)]
pub struct MergedWeights {
    /// By block, then by projection; `None` where the adapter changes nothing.
    blocks: Vec<[Option<Tensor>; Projection::COUNT]>,
}

impl MergedWeights {
    /// Bytes that the folded weights of `adapter` take.
    #[must_use]
    pub fn bytes(config: &ModelConfig, adapter: &Adapter, kind: Kind) -> usize {
        let blocks = 0..config.layers;
        let changed = blocks.flat_map(|layer| changed(config, adapter, layer));
        let values: i64 = changed
            .map(|projection| projection.shape(config))
            .map(|(outputs, inputs)| outputs * inputs)
            .sum();
        values as usize * kind.elt_size_in_bytes()
    }

    /// Whether all blocks are folded.
    #[must_use]
    pub fn is_complete(&self, model: &CausalLm) -> bool {
        self.blocks.len() == model.blocks.len()
    }

    /// Folds the next block, in float32 and rounded once; a little work between two steps. None is left when
    /// [`Self::is_complete`].
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn fold_next(&mut self, model: &CausalLm, adapter: &Adapter) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        let layer = self.blocks.len();
        let Some(block) = model.blocks.get(layer) else {
            return Ok(());
        };
        let mut folded = [const { None }; Projection::COUNT];
        for projection in changed(&model.config, adapter, layer) {
            let base = &block.projections[projection as usize].weight;
            let mut sum = base.f_empty_like()?.f_to_kind(Kind::Float)?;
            sum.f_copy_(base)?;
            for (module, shape) in model.config.modules.iter().enumerate() {
                let pair = adapter
                    .module(layer, module)
                    .filter(|_| shape.projection == projection);
                if let Some(pair) = pair {
                    let rows = sum.f_narrow(0, shape.rows.start, shape.outputs())?;
                    let _ = rows.shallow_clone().f_add_(&delta(pair)?)?;
                }
            }
            folded[projection as usize] = Some(sum.f_to_kind(base.f_kind()?)?);
        }
        self.blocks.push(folded);
        Ok(())
    }

    pub(crate) fn weight(&self, layer: usize, projection: Projection) -> Option<&Tensor> {
        self.blocks.get(layer)?[projection as usize].as_ref()
    }
}

/// The projections of a block that the adapter changes.
fn changed<'a>(
    config: &'a ModelConfig,
    adapter: &'a Adapter,
    layer: usize,
) -> impl Iterator<Item = Projection> + 'a {
    Projection::ALL.into_iter().filter(move |&projection| {
        let modules = config.modules.iter().enumerate();
        modules
            .filter(|(_, shape)| shape.projection == projection)
            .any(|(module, _)| adapter.module(layer, module).is_some())
    })
}
