//! Dropout whose mask is a pure function of where it is applied, so that a resumed run repeats it exactly.

use tch::{Device, Kind, Tensor};

use crate::error::ModelError;
use crate::modules::Site;

/// Where in a training run a forward pass is. The same key gives the same masks, on every device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Number of the forward pass within the step.
    pub micro_batch: u64,
}

impl DropoutKey {
    /// The key of the mask of one site.
    pub(crate) fn stream(self, site: Site) -> u64 {
        [self.step, self.micro_batch, site.number()]
            .into_iter()
            .fold(self.seed, |key, part| mix(key ^ mix(part)))
    }

    /// A mask of `shape: [tokens, in]` for the input of one adapter: 0 with `probability`, else `1 / (1 - probability)`.
    pub(crate) fn mask(
        self,
        probability: f64,
        shape: &[i64],
        site: Site,
        device: Device,
        kind: Kind,
    ) -> Result<Tensor, ModelError> {
        let stream = self.stream(site);
        let elements = shape.iter().product::<i64>();
        let counters = Tensor::f_arange(elements, (Kind::Int64, device))?;
        let bits = mix_tensor(&counters.f_bitwise_xor(stream as i64)?)?;
        // The upper 31 bits, a number without a sign.
        let uniform = shift_right(&bits, 33)?;
        let threshold = (probability * f64::from(1u32 << 31)) as i64;
        let kept = uniform.f_ge(threshold)?.f_to_kind(kind)?;
        Ok(kept
            .f_multiply_scalar(1.0 / (1.0 - probability))?
            .f_reshape(shape)?)
    }
}

const MULTIPLIERS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(INCREMENT);
    let value = (value ^ (value >> 30)).wrapping_mul(MULTIPLIERS[0]);
    let value = (value ^ (value >> 27)).wrapping_mul(MULTIPLIERS[1]);
    value ^ (value >> 31)
}

/// The same on int64 elements; LibTorch's integers wrap around like unsigned ones.
fn mix_tensor(values: &Tensor) -> Result<Tensor, ModelError> {
    let values = values.f_add_scalar(INCREMENT as i64)?;
    let values = values
        .f_bitwise_xor_tensor(&shift_right(&values, 30)?)?
        .f_multiply_scalar(MULTIPLIERS[0] as i64)?;
    let values = values
        .f_bitwise_xor_tensor(&shift_right(&values, 27)?)?
        .f_multiply_scalar(MULTIPLIERS[1] as i64)?;
    Ok(values.f_bitwise_xor_tensor(&shift_right(&values, 31)?)?)
}

/// Shifts zeros in from the left, which LibTorch's shift of signed integers does not.
fn shift_right(values: &Tensor, bits: u32) -> Result<Tensor, ModelError> {
    let shifted = values.f_bitwise_right_shift_tensor_scalar(i64::from(bits))?;
    Ok(shifted.f_bitwise_and((u64::MAX >> bits) as i64)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: DropoutKey = DropoutKey {
        seed: 7,
        step: 3,
        micro_batch: 0,
    };

    fn mask(key: DropoutKey, layer: usize, module: usize) -> Vec<f32> {
        let mask = key
            .mask(
                0.25,
                &[200, 50],
                Site::Block { layer, module },
                Device::Cpu,
                Kind::Float,
            )
            .unwrap();
        Vec::<f32>::try_from(mask.reshape([-1])).unwrap()
    }

    #[test]
    fn the_tensor_mixes_like_the_integer() {
        let inputs = [0i64, 1, -1, 0x0123_4567_89ab_cdef, i64::MIN];
        let mixed = mix_tensor(&Tensor::from_slice(&inputs)).unwrap();
        let expected = inputs.map(|input| mix(input as u64) as i64);
        assert_eq!(Vec::<i64>::try_from(mixed).unwrap(), expected);
    }

    #[test]
    fn a_key_gives_one_mask_and_another_key_another() {
        let first = mask(KEY, 1, 0);
        assert_eq!(first, mask(KEY, 1, 0));
        let others = [
            mask(KEY, 1, 1),
            mask(KEY, 2, 0),
            mask(DropoutKey { step: 4, ..KEY }, 1, 0),
            mask(DropoutKey { seed: 8, ..KEY }, 1, 0),
            mask(
                DropoutKey {
                    micro_batch: 1,
                    ..KEY
                },
                1,
                0,
            ),
        ];
        for other in others {
            let equal = first.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / first.len() as f64;
            // Two independent masks of 0.25 agree on 0.75² + 0.25² of their elements; 4 standard deviations are 0.02.
            assert!((equal - 0.625).abs() < 0.02, "{equal}");
        }
    }

    #[test]
    fn the_share_and_the_scale_are_right() {
        let mask = mask(KEY, 0, 6);
        let dropped = mask.iter().filter(|value| **value == 0.0).count() as f64 / mask.len() as f64;
        assert!((dropped - 0.25).abs() < 0.02, "{dropped}");
        assert!(
            mask.iter()
                .all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6)
        );
    }
}
