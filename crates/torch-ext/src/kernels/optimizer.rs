//! AdamW on flat buffers.

use tch::{Kind, Tensor};

use super::checks::{KernelError, contiguous};
use super::table::table;

/// Numbers of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// What the gradient is multiplied with first (clipping).
    pub gradient_scale: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Updates done, this one included.
    pub step: u64,
}

/// One update of `parameters`, `first` and `second` moment from `gradients`, as `torch.optim.AdamW`, in one pass.
///
/// All are contiguous float32 tensors of one size on the CPU.
///
/// # Errors
/// A tensor is not of this form.
pub fn adamw(
    parameters: &Tensor,
    gradients: &Tensor,
    first: &Tensor,
    second: &Tensor,
    update: AdamWStep,
) -> Result<(), KernelError> {
    const NAME: &str = "adamw";
    let count = parameters.numel() as i64;
    let place = |what, tensor| contiguous(NAME, what, tensor, Kind::Float, count);
    let (parameters, gradients) = (place("parameters", parameters)?, place("gradients", gradients)?);
    let (first, second) = (place("first", first)?, place("second", second)?);
    let power = i32::try_from(update.step).unwrap_or(i32::MAX);
    // SAFETY: four live contiguous float32 buffers of `count` elements, checked above; each element is read before it is
    // written.
    unsafe {
        (table().adamw)(
            count,
            parameters.cast(),
            gradients.cast_const().cast(),
            first.cast(),
            second.cast(),
            update.gradient_scale as f32,
            update.learning_rate as f32,
            update.weight_decay as f32,
            update.beta1 as f32,
            update.beta2 as f32,
            update.epsilon as f32,
            (1.0 - update.beta1.powi(power)) as f32,
            (1.0 - update.beta2.powi(power)).sqrt() as f32,
        );
    }
    Ok(())
}
