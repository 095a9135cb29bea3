//! The products with frozen weights.

use tch::Tensor;
use tunesmith_torch_ext::kernels;

use crate::error::ModelError;
use crate::linear::Linear;

/// `y = x Wᵀ + bias`, `x: [rows, in]` to `[rows, out]`.
pub(super) fn forward(linear: &Linear, x: &Tensor) -> Result<Tensor, ModelError> {
    let mut y = kernels::linear(x, &linear.weight)?;
    if let Some(bias) = &linear.bias {
        let _ = y.f_add_(bias)?;
    }
    Ok(y)
}

/// `dx = dy W`, `dy: [rows, out]` to `[rows, in]`.
pub(super) fn backward(weight: &Tensor, dy: &Tensor) -> Result<Tensor, ModelError> {
    Ok(kernels::linear(dy, &weight.f_transpose(0, 1)?)?)
}
