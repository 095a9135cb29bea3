//! A model with fresh weights.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::random::normal;
use crate::weights::{Weights, expected_tensors};

/// Norms 1, biases 0, everything else normal with `initializer_range`, as transformers begins a pre-training.
pub(crate) fn fresh_weights(
    config: &ModelConfig,
    seed: u64,
    device: Device,
    kind: Kind,
) -> Result<Weights, ModelError> {
    let mut tensors = HashMap::new();
    for (name, shape) in expected_tensors(config) {
        let is_norm = name.ends_with("norm.weight");
        let tensor = if is_norm {
            Tensor::f_ones(&shape[..], (kind, device))?
        } else if name.ends_with(".bias") {
            Tensor::f_zeros(&shape[..], (kind, device))?
        } else {
            normal(seed, &name, &shape, config.initializer_range)?
                .f_to_device(device)?
                .f_to_kind(kind)?
        };
        tensors.insert(name, tensor);
    }
    Ok(Weights::new(tensors))
}
