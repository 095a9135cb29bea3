//! Products with frozen weights.

use tch::Tensor;

use super::checks::KernelError;

/// `x weightᵀ` for `x: [rows, in]` and `weight: [out, in]` of any strides.
///
/// # Errors
/// The two do not fit, or there is no memory for the result.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, KernelError> {
    Ok(x.f_linear(weight, None::<&Tensor>)?)
}
