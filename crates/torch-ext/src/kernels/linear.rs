//! Matrix products with a weight.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::checks::KernelError;
use crate::shim::{self, OneDnn};

/// `x · weightᵀ` for `x: [rows, inner]` and `weight: [columns, inner]` of any strides; carries no gradient.
///
/// On a CPU with AVX-512 float32 and, where the processor has instructions for it, bfloat16 go to oneDNN, which is faster
/// there than the library that LibTorch asks by itself (and slower without); everything else is `Tensor::linear`.
///
/// # Errors
/// The sizes, types or devices do not fit, or there is no memory for the result.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, KernelError> {
    let _no_gradient = tch::no_grad_guard();
    if runs_on_onednn(x, weight)? {
        Ok(shim::onednn_linear(x, weight)?)
    } else {
        Ok(x.f_linear(weight, None::<&Tensor>)?)
    }
}

fn runs_on_onednn(x: &Tensor, weight: &Tensor) -> Result<bool, KernelError> {
    static FOUND: OnceLock<OneDnn> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if has_avx512() {
            shim::onednn()
        } else {
            OneDnn::default()
        }
    });
    let kind = x.f_kind()?;
    let has_kind = match kind {
        Kind::Float => found.float32,
        Kind::BFloat16 => found.bfloat16,
        _ => false,
    };
    let on_cpu = x.device() == Device::Cpu && weight.device() == Device::Cpu;
    // Empty matrices are left to LibTorch, and so are sizes that do not fit, for its better words.
    let (size, weight_size) = (x.size(), weight.size());
    let fits =
        size.len() == 2 && weight_size.len() == 2 && size[1] == weight_size[1] && weight.f_kind()? == kind;
    Ok(has_kind && on_cpu && fits && x.numel() > 0 && weight.numel() > 0)
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Whatever [`linear`] prefers on this processor.
    #[test]
    fn onednn_takes_weights_of_any_layout() {
        let found = shim::onednn();
        let kinds = [
            (Kind::Float, found.float32, 1e-4),
            (Kind::BFloat16, found.bfloat16, 0.2),
        ];
        for (kind, _, tolerance) in kinds.iter().filter(|(_, is_there, _)| *is_there) {
            tch::manual_seed(1);
            let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(*kind);
            let (weight, wide) = (random([96, 64]), random([130, 80]));
            let transposed = weight.transpose(0, 1).contiguous().transpose(0, 1);
            for x in [wide.narrow(1, 0, 64).contiguous(), wide.narrow(1, 9, 64)] {
                let expected = x.to_kind(Kind::Double).matmul(&weight.to_kind(Kind::Double).tr());
                for weight in [&weight, &transposed] {
                    let y = shim::onednn_linear(&x, weight).unwrap();
                    let difference = (y.to_kind(Kind::Double) - &expected)
                        .abs()
                        .max()
                        .double_value(&[]);
                    assert!(difference < *tolerance, "{kind:?}: {difference}");
                    assert!(shim::onednn_linear(&x, weight).unwrap().equal(&y));
                }
            }
        }
        let double = Tensor::zeros([2, 2], (Kind::Double, Device::Cpu));
        let refused = shim::onednn_linear(&double, &double).unwrap_err();
        assert!(!refused.to_string().is_empty());
    }
}
