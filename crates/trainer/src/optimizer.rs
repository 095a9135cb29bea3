//! AdamW, as `torch.optim.AdamW` computes it, on one flat float32 buffer.
//!
//! The buffer holds all trained tensors end to end; the tensors become views of it, so one update is a dozen operations
//! however many tensors there are. Tensors with one dimension (norms, biases) come last and are not decayed, as in
//! transformers' Trainer.

use tch::{Kind, Tensor, no_grad_guard};

use crate::error::TrainError;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Optimizer state. All buffers are float32 `[n]`.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Tensor>,
    flat: Tensor,
    decayed: i64,
    first_moment: Tensor,
    second_moment: Tensor,
    steps: u64,
    weight_decay: f64,
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
    /// Takes over `parameters` (float32 leaves): from now on they are views of one buffer.
    ///
    /// # Errors
    /// LibTorch has no memory for the buffers.
    pub fn new(parameters: &[&Tensor], weight_decay: f64) -> Result<Self, TrainError> {
        let _guard = no_grad_guard();
        let mut ordered: Vec<Tensor> = parameters.iter().map(|one| one.shallow_clone()).collect();
        ordered.sort_by_key(|parameter| parameter.dim() < 2);
        let pieces = ordered
            .iter()
            .map(|parameter| parameter.f_detach()?.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let flat = Tensor::f_cat(&pieces, 0)?;
        let mut start = 0;
        let mut decayed = 0;
        for parameter in &mut ordered {
            let length = parameter.numel() as i64;
            let view = flat.f_narrow(0, start, length)?.f_view(&parameter.size()[..])?;
            parameter.f_set_data(&view)?;
            start += length;
            if parameter.dim() >= 2 {
                decayed = start;
            }
        }
        Ok(Self {
            first_moment: flat.f_zeros_like()?,
            second_moment: flat.f_zeros_like()?,
            parameters: ordered,
            flat,
            decayed,
            steps: 0,
            weight_decay,
        })
    }

    /// Number of trained values.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.flat.numel() as u64
    }

    /// One update from the gradients that the parameters have collected, which are then zeroed. Returns the norm of the
    /// gradient before clipping: a float64 scalar on the device, not read yet.
    ///
    /// `max_grad_norm`: as `torch.nn.utils.clip_grad_norm_`; 0 does not clip.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn step(&mut self, learning_rate: f64, max_grad_norm: f64) -> Result<Tensor, TrainError> {
        let _guard = no_grad_guard();
        let mut gradient = self.take_gradient()?;
        let norm = gradient.f_norm_scalaropt_dtype(2.0, Kind::Double)?;
        if max_grad_norm > 0.0 {
            let share = (norm.f_add_scalar(1e-6)?.f_reciprocal()? * max_grad_norm).f_clamp_max(1.0)?;
            let _ = gradient.f_mul_(&share.f_to_kind(Kind::Float)?)?;
        }
        self.steps += 1;
        if self.weight_decay > 0.0 {
            let mut weights = self.flat.f_narrow(0, 0, self.decayed)?;
            let _ = weights.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
        }
        let _ = self.first_moment.f_lerp_(&gradient, 1.0 - BETA1)?;
        let squared = gradient.f_mul_scalar(1.0 - BETA2)?.f_mul(&gradient)?;
        let _ = self.second_moment.f_mul_scalar_(BETA2)?.f_add_(&squared)?;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - BETA1.powi(power);
        let correction2 = (1.0 - BETA2.powi(power)).sqrt();
        let mut denominator = self.second_moment.f_sqrt()?;
        let _ = denominator.f_div_scalar_(correction2)?.f_add_scalar_(EPSILON)?;
        let scaled = self.first_moment.f_mul_scalar(-learning_rate / correction1)?;
        let _ = self.flat.f_addcdiv_(&scaled, &denominator)?;
        Ok(norm)
    }

    /// The state, for a checkpoint.
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

    fn take_gradient(&mut self) -> Result<Tensor, TrainError> {
        let mut pieces = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let gradient = parameter.f_grad()?;
            pieces.push(if gradient.defined() {
                gradient.f_reshape([-1])?
            } else {
                parameter.f_zeros_like()?.f_reshape([-1])?
            });
        }
        let flat = Tensor::f_cat(&pieces, 0)?;
        for parameter in &mut self.parameters {
            parameter.zero_grad();
        }
        Ok(flat)
    }
}

#[cfg(test)]
mod tests;
