//! A model with fresh weights.

use tch::Tensor;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::random::normal;
use crate::weights::TensorSource;

/// Norms 1, biases 0, everything else normal with `initializer_range`, as transformers begins a pre-training.
pub(crate) struct FreshWeights<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) seed: u64,
}

impl TensorSource for FreshWeights<'_> {
    fn fill(&self, name: &str, target: &Tensor) -> Result<(), ModelError> {
        let mut target = target.shallow_clone();
        if name.ends_with("norm.weight") {
            let _ = target.f_fill_(1.0 - self.config.norm_offset)?;
        } else if name.ends_with(".bias") {
            let _ = target.f_fill_(0.0)?;
        } else {
            target.f_copy_(&normal(
                self.seed,
                name,
                &target.size(),
                self.config.initializer_range,
            )?)?;
        }
        Ok(())
    }
}
