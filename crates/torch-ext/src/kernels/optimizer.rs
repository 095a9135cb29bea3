//! AdamW on flat buffers.

use std::ffi::c_void;

use tch::{Kind, Tensor};

use super::checks::{Engine, KernelError, contiguous};
use super::plain;
use super::table::table;
use crate::gpu::kernels::{self, Argument};

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

impl AdamWStep {
    /// What the moments are divided by for their start at zero; of the second its root.
    pub(super) fn corrections(self) -> (f64, f64) {
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        (
            1.0 - self.beta1.powi(power),
            (1.0 - self.beta2.powi(power)).sqrt(),
        )
    }

    /// In the kernels' order.
    fn numbers(self) -> [f32; 8] {
        let (correction1, correction2) = self.corrections();
        [
            self.gradient_scale,
            self.learning_rate,
            self.weight_decay,
            self.beta1,
            self.beta2,
            self.epsilon,
            correction1,
            correction2,
        ]
        .map(|number| number as f32)
    }
}

/// One update of `parameters`, `first` and `second` moment from `gradients`, as `torch.optim.AdamW`, in one pass.
///
/// All are contiguous float32 tensors of one size on one device.
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
    let options = (Kind::Float, parameters.device());
    let place = |what, tensor| contiguous(NAME, what, tensor, options, count);
    let places = [
        place("parameters", parameters)?,
        place("gradients", gradients)?,
        place("first", first)?,
        place("second", second)?,
    ];
    match Engine::of(options.1) {
        // SAFETY: four live contiguous float32 buffers of `count` elements, checked above.
        Engine::Cpu => unsafe { adamw_on_cpu(count, places, update.numbers()) },
        Engine::Gpu(kernels) => {
            let mut arguments = vec![Argument::from(count)];
            arguments.extend(places.map(Argument::from));
            arguments.extend(update.numbers().map(Argument::from));
            // SAFETY: as above, on this device, and the numbers in the kernel's order.
            unsafe { kernels.launch(kernels::ADAMW, [(count + 255) / 256, 1], 256, &arguments) }?;
        }
        Engine::Plain => plain::adamw([parameters, gradients, first, second], update)?,
    }
    Ok(())
}

/// # Safety
/// The addresses are of four buffers of `count` float32 each: parameters, gradients, first and second moment.
unsafe fn adamw_on_cpu(
    count: i64,
    [parameters, gradients, first, second]: [*mut c_void; 4],
    numbers: [f32; 8],
) {
    let [
        share,
        rate,
        decay,
        beta1,
        beta2,
        epsilon,
        correction1,
        correction2,
    ] = numbers;
    // SAFETY: by the caller's word; each element is read before it is written.
    unsafe {
        (table().adamw)(
            count,
            parameters.cast(),
            gradients.cast_const().cast(),
            first.cast(),
            second.cast(),
            share,
            rate,
            decay,
            beta1,
            beta2,
            epsilon,
            correction1,
            correction2,
        );
    }
}
