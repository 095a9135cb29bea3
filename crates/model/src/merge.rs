//! An adapter folded into the base weights: `W' = W + s · B A`.

use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::adapter::{Adapter, LoraPair};
use crate::causal_lm::CausalLm;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Site;
use crate::save::{save_config, write_shards};
use crate::weights::{EMBEDDING, HEAD, TensorSource, WeightFiles, expected_tensors};

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

    /// The first tensor of the model folder `folder` that is not this model's, rounded once to `kind`, bit for bit; none
    /// where all are.
    ///
    /// # Errors
    /// The folder cannot be read, or has other tensors than this model.
    pub fn find_unequal(&self, folder: &Path, kind: Kind) -> Result<Option<String>, ModelError> {
        let _guard = no_grad_guard();
        let files = WeightFiles::open(folder, &self.config)?;
        for (name, tensor) in self.parameters() {
            let wanted = tensor.f_to_device(Device::Cpu)?.f_to_kind(kind)?;
            let found = Tensor::f_empty(wanted.size(), (kind, Device::Cpu))?;
            files.fill(&name, &found)?;
            if files.kind(&name)? != kind || !has_same_bits(&wanted, &found)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn untie(&mut self) -> Result<(), ModelError> {
        if self.head.is_none() {
            let mut head = self.embedding.f_empty_like()?;
            head.f_copy_(&self.embedding)?;
            self.head = Some(head);
            untie(&mut self.config);
        }
        Ok(())
    }
}

/// Of two tensors of one format; unlike a comparison of numbers it tells zeros of different signs apart.
fn has_same_bits(one: &Tensor, other: &Tensor) -> Result<bool, ModelError> {
    let bits = match one.f_kind()? {
        Kind::Float => Kind::Int,
        _ => Kind::Int16,
    };
    Ok(one.f_view_dtype(bits)?.f_equal(&other.f_view_dtype(bits)?)?)
}

fn untie(config: &mut ModelConfig) {
    config.tie_word_embeddings = false;
    let field = "tie_word_embeddings".to_owned();
    config.source.insert(field, Value::Bool(false));
}

/// Folds an adapter into the weights of the model folder `base` and writes `config.json` and weights into `folder`, which
/// must exist, in files of at most `shard_bytes`. Each tensor is read, summed in float32 and rounded once to `kind` (that
/// of the base model's embedding where none is given), so no more than one file is in memory. Returns the format.
///
/// Names are those of the base model. Where it has one tensor for embedding and output head, and the adapter changes one
/// of them, two are written and `tie_word_embeddings` becomes false.
///
/// # Errors
/// The base model cannot be read, a file could not be written, or `kind` is not bfloat16, float16 or float32.
pub fn merge_folder(
    base: &Path,
    adapter: &Adapter,
    folder: &Path,
    kind: Option<Kind>,
    shard_bytes: usize,
) -> Result<Kind, ModelError> {
    let _guard = no_grad_guard();
    let mut config = ModelConfig::from_folder(base)?;
    let files = WeightFiles::open(base, &config)?;
    let kind = kind.map_or_else(|| files.kind(EMBEDDING), Ok)?;
    let is_tied = config.tie_word_embeddings;
    if is_tied && (adapter.embedding().is_some() || adapter.head().is_some()) {
        untie(&mut config);
    }
    save_config(&config, folder, kind)?;
    let tensors = expected_tensors(&config);
    let sizes: Vec<(String, usize)> = tensors
        .iter()
        .map(|(name, shape)| (name.clone(), shape.iter().product::<i64>() as usize))
        .collect();
    write_shards(folder, &sizes, kind, shard_bytes, |name| {
        let shape = tensors.iter().find(|(found, _)| found == name);
        let shape = &shape.expect("invariant: the name is of this list").1;
        let weight = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
        let stored = if is_tied && name == HEAD { EMBEDDING } else { name };
        files.fill(stored, &weight)?;
        if let Some(pair) = pair_of(adapter, &config, name) {
            let delta = delta(pair)?.f_to_device(Device::Cpu)?;
            let delta = match pair.site {
                Site::Embedding => delta.f_transpose(0, 1)?,
                Site::Block { .. } | Site::Head => delta,
            };
            let _ = weight.shallow_clone().f_add_(&delta)?;
        }
        Ok(weight.f_to_kind(kind)?)
    })?;
    Ok(kind)
}

/// What changes the weight of that name.
fn pair_of<'a>(adapter: &'a Adapter, config: &ModelConfig, weight: &str) -> Option<&'a LoraPair> {
    let module = weight.strip_suffix(".weight")?;
    adapter
        .pairs()
        .iter()
        .find(|pair| pair.site.name(config) == module)
}

/// `s · B A`, float32 `[out, in]`.
pub(crate) fn delta(pair: &LoraPair) -> Result<Tensor, ModelError> {
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
