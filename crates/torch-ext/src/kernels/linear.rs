//! Matrix products with a weight.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::checks::KernelError;
use crate::shim::{self, OneDnn};

/// `x · weightᵀ` for `x: [rows, inner]` and `weight: [columns, inner]` of any strides; carries no gradient.
///
/// float32 and, where the processor has instructions for it, bfloat16 on the CPU go to oneDNN, which is faster here than
/// the library that LibTorch asks by itself; everything else is `Tensor::linear`.
///
/// # Errors
/// The sizes, types or devices do not fit, or there is no memory for the result.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, KernelError> {
    if runs_on_onednn(x, weight)? {
        Ok(shim::onednn_linear(x, weight)?)
    } else {
        Ok(x.f_linear(weight, None::<&Tensor>)?)
    }
}

fn runs_on_onednn(x: &Tensor, weight: &Tensor) -> Result<bool, KernelError> {
    static FOUND: OnceLock<OneDnn> = OnceLock::new();
    let found = FOUND.get_or_init(shim::onednn);
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
