//! AdamW, as `torch.optim.AdamW` computes it, on one flat float32 buffer: an update is a dozen operations however many
//! tensors there are.

use tch::{Kind, Tensor, no_grad_guard};

use crate::error::TrainError;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Neighbouring values of the buffer that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// How many.
    pub length: i64,
    /// Their learning rate over the schedule's (LoRA+ gives `B` a greater one).
    pub lr_ratio: f64,
    /// Decoupled decay: `w -= lr · lr_ratio · weight_decay · w`.
    pub weight_decay: f64,
}

/// Optimizer state. All buffers are float32 `[n]`.
#[derive(Debug)]
pub struct AdamW {
    flat: Tensor,
    ranges: Vec<Range>,
    first_moment: Tensor,
    second_moment: Tensor,
    steps: u64,
}

/// The moments and the step counter, for a checkpoint.
#[derive(Debug)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Tensor,
    /// Running mean of its square.
    pub second: Tensor,
    /// Updates done.
    pub steps: u64,
}

impl AdamW {
    /// Will update `flat`, float32 `[n]`, in place; `ranges` follow one another and make up all of it.
    ///
    /// # Errors
    /// LibTorch has no memory for the moments.
    pub fn new(flat: &Tensor, ranges: Vec<Range>) -> Result<Self, TrainError> {
        let _guard = no_grad_guard();
        Ok(Self {
            first_moment: flat.f_zeros_like()?,
            second_moment: flat.f_zeros_like()?,
            flat: flat.shallow_clone(),
            ranges,
            steps: 0,
        })
    }

    /// Number of trained values.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.flat.numel() as u64
    }

    /// One update from `gradient`, float32 `[n]`, whose norm is `norm`; the gradient is clipped in place.
    ///
    /// `max_grad_norm`: as `torch.nn.utils.clip_grad_norm_`; 0 does not clip.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn step(
        &mut self,
        gradient: &Tensor,
        norm: f64,
        learning_rate: f64,
        max_grad_norm: f64,
    ) -> Result<(), TrainError> {
        let _guard = no_grad_guard();
        let mut gradient = gradient.shallow_clone();
        let share = max_grad_norm / (norm + 1e-6);
        if max_grad_norm > 0.0 && share < 1.0 {
            let _ = gradient.f_mul_scalar_(share)?;
        }
        self.steps += 1;
        let _ = self.first_moment.f_lerp_(&gradient, 1.0 - BETA1)?;
        let squared = gradient.f_mul_scalar(1.0 - BETA2)?.f_mul(&gradient)?;
        let _ = self.second_moment.f_mul_scalar_(BETA2)?.f_add_(&squared)?;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - BETA1.powi(power);
        let correction2 = (1.0 - BETA2.powi(power)).sqrt();
        let mut denominator = self.second_moment.f_sqrt()?;
        let _ = denominator.f_div_scalar_(correction2)?.f_add_scalar_(EPSILON)?;
        let mut start = 0;
        for range in &self.ranges {
            let part = |whole: &Tensor| whole.f_narrow(0, start, range.length);
            let rate = learning_rate * range.lr_ratio;
            let mut weights = part(&self.flat)?;
            if range.weight_decay > 0.0 {
                let _ = weights.f_mul_scalar_(1.0 - rate * range.weight_decay)?;
            }
            let scaled = part(&self.first_moment)?.f_mul_scalar(-rate / correction1)?;
            let _ = weights.f_addcdiv_(&scaled, &part(&denominator)?)?;
            start += range.length;
        }
        Ok(())
    }

    /// The state, for a checkpoint: views that change with the next step.
    #[must_use]
    pub fn moments(&self) -> Moments {
        Moments {
            first: self.first_moment.shallow_clone(),
            second: self.second_moment.shallow_clone(),
            steps: self.steps,
        }
    }

    /// Goes on from a checkpoint's state.
    ///
    /// # Errors
    /// The state has another size.
    pub fn restore(&mut self, moments: &Moments) -> Result<(), TrainError> {
        let _guard = no_grad_guard();
        self.first_moment.f_copy_(&moments.first)?;
        self.second_moment.f_copy_(&moments.second)?;
        self.steps = moments.steps;
        Ok(())
    }
}

/// Norm of a gradient: a float64 scalar on the device, not read yet.
///
/// # Errors
/// LibTorch refused.
pub fn norm(gradient: &Tensor) -> Result<Tensor, TrainError> {
    let _guard = no_grad_guard();
    Ok(gradient.f_norm_scalaropt_dtype(2.0, Kind::Double)?)
}

#[cfg(test)]
mod tests;
