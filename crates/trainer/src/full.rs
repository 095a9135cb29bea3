//! Training all weights (`--full`): LibTorch's autograd, one job alone with the base model.

use tch::{Kind, Reduction, Tensor, no_grad_guard};
use tunesmith_model::{CausalLm, Keep, ModelError, PackedBatch, Scores, Segment};

use crate::error::TrainError;
use crate::optimizer::Range;

/// Bytes of one chunk's float32 scores: within reach of the caches on a CPU, enough rows to fill a GPU.
const CPU_CHUNK_BYTES: i64 = 16 << 20;
const CUDA_CHUNK_BYTES: i64 = 512 << 20;

/// All weights of a model as views of one buffer.
#[derive(Debug)]
pub struct FullModel {
    parameters: Vec<Tensor>,
    flat: Tensor,
    /// Values of tensors with two dimensions, which come first. Norms and biases are not decayed, as in transformers'
    /// Trainer.
    decayed: i64,
    save_kind: Kind,
}

impl FullModel {
    /// Takes over the weights of `model` (float32): from now on they are views of one buffer. `save_kind`: the format of
    /// the finished weights.
    ///
    /// # Errors
    /// LibTorch has no memory for the buffer.
    pub fn new(model: &CausalLm, save_kind: Kind) -> Result<Self, TrainError> {
        model.set_trainable(true)?;
        let _guard = no_grad_guard();
        let mut parameters: Vec<Tensor> = model
            .trainable()
            .iter()
            .map(|(_, parameter)| parameter.shallow_clone())
            .collect();
        parameters.sort_by_key(|parameter| parameter.dim() < 2);
        let pieces = parameters
            .iter()
            .map(|parameter| parameter.f_detach()?.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let flat = Tensor::f_cat(&pieces, 0)?;
        let (mut start, mut decayed) = (0, 0);
        for parameter in &mut parameters {
            let length = parameter.numel() as i64;
            let view = flat.f_narrow(0, start, length)?.f_view(&parameter.size()[..])?;
            parameter.f_set_data(&view)?;
            start += length;
            if parameter.dim() >= 2 {
                decayed = start;
            }
        }
        Ok(Self {
            parameters,
            flat,
            decayed,
            save_kind,
        })
    }

    /// All weights, `[n]`.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The format of the finished weights.
    #[must_use]
    pub fn save_kind(&self) -> Kind {
        self.save_kind
    }

    /// Matrices, decayed; then vectors, not decayed.
    #[must_use]
    pub fn ranges(&self, weight_decay: f64) -> Vec<Range> {
        let range = |length, weight_decay| Range {
            length,
            lr_ratio: 1.0,
            weight_decay,
        };
        vec![
            range(self.decayed, weight_decay),
            range(self.flat.numel() as i64 - self.decayed, 0.0),
        ]
    }

    /// Forward and backward pass; what [`CausalLm::train_pass_keeping`] is for adapters. The gradient is added to the
    /// segments' buffers.
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn train_pass(
        &self,
        model: &CausalLm,
        segments: &[Segment<'_>],
        keep: Keep,
    ) -> Result<Vec<Scores>, ModelError> {
        segments
            .iter()
            .map(|segment| {
                let scores = backward(model, segment, keep)?;
                if let Some(gradient) = segment.gradient {
                    self.take_gradients(gradient)?;
                }
                Ok(scores)
            })
            .collect()
    }

    /// Adds what autograd has collected to `gradient`, and forgets it.
    fn take_gradients(&self, gradient: &Tensor) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        let mut start = 0;
        for parameter in &self.parameters {
            let length = parameter.numel() as i64;
            let collected = parameter.f_grad()?;
            if collected.defined() {
                let _ = gradient
                    .f_narrow(0, start, length)?
                    .f_add_(&collected.f_reshape([-1])?)?;
                parameter.shallow_clone().zero_grad();
            }
            start += length;
        }
        Ok(())
    }
}

/// Gradients of `scale · Σ weight · cross-entropy`.
fn backward(model: &CausalLm, segment: &Segment<'_>, keep: Keep) -> Result<Scores, ModelError> {
    let learnt = Learnt::of(segment);
    let lengths: Vec<usize> = segment
        .documents
        .iter()
        .map(|document| document.tokens.len())
        .collect();
    let batch = PackedBatch::new(&learnt.tokens, &lengths, model.device())?;
    let rows = Tensor::f_from_slice(&learnt.rows)?.f_to_device(model.device())?;
    match keep {
        Keep::All => {
            let picked = model.hidden(&batch, None, None)?.f_index_select(0, &rows)?;
            let (scores, gradient) = score(model, &picked, &learnt, segment.scale)?;
            // The gradient of Σ picked · gradient with respect to `picked` is exactly `gradient`.
            picked.f_mul(&gradient)?.f_sum(Kind::Float)?.f_backward()?;
            Ok(scores)
        }
        Keep::Inputs => {
            let pass = model.hidden_recomputed(&batch)?;
            let picked = pass.hidden().f_index_select(0, &rows)?;
            let (scores, gradient) = score(model, &picked, &learnt, segment.scale)?;
            let mut whole = pass.hidden().f_zeros_like()?;
            let _ = whole.f_index_copy_(0, &rows, &gradient)?;
            pass.backward(&whole)?;
            Ok(scores)
        }
    }
}

/// Scores of the rows `picked`, and the gradient with respect to them; the head collects its own. The scores of the
/// vocabulary are made in chunks: nothing as large as rows × vocabulary outlives a chunk.
fn score(
    model: &CausalLm,
    picked: &Tensor,
    learnt: &Learnt,
    scale: f64,
) -> Result<(Scores, Tensor), ModelError> {
    let device = model.device();
    let targets = Tensor::f_from_slice(&learnt.targets)?.f_to_device(device)?;
    let weights = Tensor::f_from_slice(&learnt.weights)?.f_to_device(device)?;
    let mut scores = Scores {
        loss_sum: Tensor::f_zeros([] as [i64; 0], (Kind::Double, device))?,
        correct: Tensor::f_zeros([] as [i64; 0], (Kind::Int64, device))?,
    };
    let mut gradients = Vec::new();
    let size = chunk_rows(model);
    let parts = picked.f_split(size, 0)?.into_iter();
    let parts = parts
        .zip(targets.f_split(size, 0)?)
        .zip(weights.f_split(size, 0)?);
    for ((rows, targets), weights) in parts {
        // A leaf of its own: the chunk's graph is freed before the next chunk begins.
        let rows = rows.f_detach()?.f_set_requires_grad(true)?;
        let logits = model.logits(&rows)?.f_to_kind(Kind::Float)?;
        let losses = logits.f_cross_entropy_loss(&targets, None::<&Tensor>, Reduction::None, -100, 0.0)?;
        let loss = losses.f_mul(&weights)?.f_sum(Kind::Float)?;
        loss.f_mul_scalar(scale)?.f_backward()?;
        let hits = logits
            .f_argmax(-1, false)?
            .f_eq_tensor(&targets)?
            .f_sum(Kind::Int64)?;
        let _ = scores
            .loss_sum
            .f_add_(&loss.f_detach()?.f_to_kind(Kind::Double)?)?;
        let _ = scores.correct.f_add_(&hits)?;
        gradients.push(rows.f_grad()?);
    }
    Ok((scores, Tensor::f_cat(&gradients, 0)?))
}

fn chunk_rows(model: &CausalLm) -> i64 {
    let bytes = if model.device().is_cuda() {
        CUDA_CHUNK_BYTES
    } else {
        CPU_CHUNK_BYTES
    };
    (bytes / (4 * model.config().vocab_size)).max(64)
}

/// The tokens of a segment, and which of its rows are to predict what.
#[derive(Default)]
struct Learnt {
    tokens: Vec<u32>,
    rows: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f32>,
}

impl Learnt {
    fn of(segment: &Segment<'_>) -> Self {
        let mut learnt = Self::default();
        for document in &segment.documents {
            let start = learnt.tokens.len();
            learnt.tokens.extend_from_slice(document.tokens);
            for place in 1..document.tokens.len() {
                if document.weights[place] != 0.0 {
                    learnt.rows.push((start + place - 1) as i64);
                    learnt.targets.push(i64::from(document.tokens[place]));
                    learnt.weights.push(document.weights[place]);
                }
            }
        }
        learnt
    }
}
