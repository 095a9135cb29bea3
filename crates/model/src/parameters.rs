//! The weights of a model by their names.

use tch::Tensor;

use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::modules::Projection;
use crate::weights::{EMBEDDING, FINAL_NORM, HEAD};

impl CausalLm {
    /// Every weight by its Hugging Face name, in the order of [`crate::expected_tensors`]. Where a family's files split
    /// what is one tensor in memory, views of its parts: for reading; [`Self::trainable`] has the tensors themselves.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = vec![(EMBEDDING.to_owned(), self.embedding.shallow_clone())];
        for (number, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{number}");
            for (name, norm) in block.norms(&self.config) {
                parameters.push((format!("{prefix}.{name}.weight"), norm.weight.shallow_clone()));
            }
            for module in &self.config.modules {
                let merged = &block.projections[module.projection as usize];
                let rows = |tensor: &Tensor| tensor.narrow(0, module.rows.start, module.outputs());
                let path = module.path;
                parameters.push((format!("{prefix}.{path}.weight"), rows(&merged.weight)));
                let bias = merged.bias.as_ref().map(rows);
                parameters.extend(bias.map(|bias| (format!("{prefix}.{path}.bias"), bias)));
            }
        }
        parameters.push((FINAL_NORM.to_owned(), self.final_norm.weight.shallow_clone()));
        let head = self.head.as_ref().map(Tensor::shallow_clone);
        parameters.extend(head.map(|head| (HEAD.to_owned(), head)));
        parameters
    }

    /// The tensors of full-parameter training, by names of their own, in the order of a forward pass: leaves that
    /// collect gradients after [`Self::set_trainable`].
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, &Tensor)> {
        let mut parameters = vec![(EMBEDDING.to_owned(), &self.embedding)];
        for (number, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{number}");
            for (name, norm) in block.norms(&self.config) {
                parameters.push((format!("{prefix}.{name}.weight"), &norm.weight));
            }
            for (projection, part) in Projection::ALL.into_iter().zip(&block.projections) {
                let name = format!("{prefix}.{}", projection.as_str());
                parameters.push((format!("{name}.weight"), &part.weight));
                parameters.extend(part.bias.as_ref().map(|bias| (format!("{name}.bias"), bias)));
            }
        }
        parameters.push((FINAL_NORM.to_owned(), &self.final_norm.weight));
        parameters.extend(self.head.as_ref().map(|head| (HEAD.to_owned(), head)));
        parameters
    }

    /// Makes every weight a leaf that collects gradients (full-parameter training), or freezes all.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn set_trainable(&self, trainable: bool) -> Result<(), ModelError> {
        for (_, parameter) in self.trainable() {
            let _ = parameter.f_set_requires_grad(trainable)?;
        }
        Ok(())
    }
}
