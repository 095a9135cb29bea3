//! Random numbers for initial values: a function of seed and tensor name alone, not of LibTorch's global generator.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::error::ModelError;

fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(name.as_bytes())
        .finalize();
    ChaCha8Rng::from_seed(digest.into())
}

/// Uniform on `[-bound, bound)`, float32.
pub(crate) fn uniform(
    seed: u64,
    name: &str,
    shape: &[i64],
    bound: f32,
    device: Device,
) -> Result<Tensor, ModelError> {
    let mut generator = generator(seed, name);
    let values: Vec<f32> = (0..shape.iter().product::<i64>())
        .map(|_| (generator.random::<f32>() * 2.0 - 1.0) * bound)
        .collect();
    Ok(Tensor::f_from_slice(&values)?
        .f_reshape(shape)?
        .f_to_device(device)?)
}

/// Normal with mean 0, float32, by the method of Box and Muller.
pub(crate) fn normal(seed: u64, name: &str, shape: &[i64], deviation: f64) -> Result<Tensor, ModelError> {
    let mut generator = generator(seed, name);
    let count = shape.iter().product::<i64>() as usize;
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = deviation * (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (TAU * generator.random::<f64>()).sin_cos();
        values.push((radius * cosine) as f32);
        values.push((radius * sine) as f32);
    }
    Ok(Tensor::f_from_slice(&values[..count])?.f_reshape(shape)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let draw = |seed, name: &str| uniform(seed, name, &[4, 8], 0.5, Device::Cpu).unwrap();
        tch::manual_seed(1);
        let first = draw(3, "a");
        tch::manual_seed(2);
        assert!(first.equal(&draw(3, "a")));
        assert!(!first.equal(&draw(4, "a")));
        assert!(!first.equal(&draw(3, "b")));
        assert!(first.abs().max().double_value(&[]) <= 0.5);
    }

    #[test]
    fn the_normal_has_its_mean_and_deviation() {
        let values = normal(3, "w", &[101, 99], 0.02).unwrap();
        assert_eq!(values.size(), [101, 99]);
        assert!(values.mean(Kind::Float).double_value(&[]).abs() < 1e-3);
        assert!((values.std(true).double_value(&[]) - 0.02).abs() < 5e-4);
    }
}
