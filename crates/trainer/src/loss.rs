//! Cross-entropy on the supervised rows only, in float32, in chunks: nothing as large as rows × vocabulary outlives a
//! chunk.

use tch::{Kind, Reduction, Tensor};
use tunesmith_model::{Adapter, CausalLm, DropoutKey, ModelError};

use crate::error::TrainError;
use crate::micro_batch::MicroBatch;

/// Bytes of one chunk's float32 scores: within reach of the caches on a CPU, enough rows to fill a GPU.
const CPU_CHUNK_BYTES: i64 = 16 << 20;
const CUDA_CHUNK_BYTES: i64 = 512 << 20;

/// Sum of the losses of a micro-batch, and how many of its targets the model would have chosen.
#[derive(Debug)]
pub struct Scores {
    /// float64 scalar on the device.
    pub loss_sum: Tensor,
    /// int64 scalar on the device.
    pub correct: Tensor,
}

/// Forward and backward pass. Gradients of `Σ loss · weight` are added to the trained tensors; with `weight` = 1 / number
/// of supervised tokens of the whole optimizer step, its micro-batches add up to the step's mean. Returns `Σ loss`, a
/// float64 scalar on the device.
///
/// # Errors
/// LibTorch refused, most often for want of memory.
pub fn backward(
    model: &CausalLm,
    adapter: Option<&Adapter>,
    batch: &MicroBatch,
    weight: f64,
    dropout: Option<DropoutKey>,
) -> Result<Tensor, TrainError> {
    let hidden = model.hidden(&batch.packed, adapter, dropout)?;
    let picked = hidden.f_index_select(0, &batch.rows)?;
    drop(hidden);
    let mut sum = Tensor::f_zeros([] as [i64; 0], (Kind::Double, model.device()))?;
    let mut gradients = Vec::new();
    for (rows, targets) in chunks(model, &picked, &batch.targets)? {
        // A leaf of its own: the chunk's graph is freed before the next chunk begins.
        let rows = rows.f_detach()?.f_set_requires_grad(true)?;
        let loss = cross_entropy(model, &rows, &targets)?;
        loss.f_mul_scalar(weight)?.f_backward()?;
        let _ = sum.f_add_(&loss.f_detach()?.f_to_kind(Kind::Double)?)?;
        gradients.push(rows.f_grad()?);
    }
    let gradient = Tensor::f_cat(&gradients, 0)?;
    // The gradient of Σ picked · gradient with respect to `picked` is exactly `gradient`.
    picked.f_mul(&gradient)?.f_sum(Kind::Float)?.f_backward()?;
    Ok(sum)
}

/// Forward pass only.
///
/// # Errors
/// LibTorch refused, most often for want of memory.
pub fn score(model: &CausalLm, adapter: Option<&Adapter>, batch: &MicroBatch) -> Result<Scores, TrainError> {
    let _guard = tch::no_grad_guard();
    let hidden = model.hidden(&batch.packed, adapter, None)?;
    let picked = hidden.f_index_select(0, &batch.rows)?;
    drop(hidden);
    let mut scores = Scores {
        loss_sum: Tensor::f_zeros([] as [i64; 0], (Kind::Double, model.device()))?,
        correct: Tensor::f_zeros([] as [i64; 0], (Kind::Int64, model.device()))?,
    };
    for (rows, targets) in chunks(model, &picked, &batch.targets)? {
        let logits = model.logits(&rows)?.f_to_kind(Kind::Float)?;
        let loss = logits.f_cross_entropy_loss(&targets, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        let _ = scores.loss_sum.f_add_(&loss.f_to_kind(Kind::Double)?)?;
        let hits = logits
            .f_argmax(-1, false)?
            .f_eq_tensor(&targets)?
            .f_sum(Kind::Int64)?;
        let _ = scores.correct.f_add_(&hits)?;
    }
    Ok(scores)
}

fn cross_entropy(model: &CausalLm, rows: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
    let logits = model.logits(rows)?.f_to_kind(Kind::Float)?;
    Ok(logits.f_cross_entropy_loss(targets, None::<&Tensor>, Reduction::Sum, -100, 0.0)?)
}

/// Pairs of equal numbers of rows and targets.
fn chunks(
    model: &CausalLm,
    rows: &Tensor,
    targets: &Tensor,
) -> Result<impl Iterator<Item = (Tensor, Tensor)>, TrainError> {
    let bytes = if model.device().is_cuda() {
        CUDA_CHUNK_BYTES
    } else {
        CPU_CHUNK_BYTES
    };
    let size = (bytes / (4 * model.config().vocab_size)).max(64);
    let rows = rows.f_split(size, 0)?;
    let targets = targets.f_split(size, 0)?;
    Ok(rows.into_iter().zip(targets))
}
