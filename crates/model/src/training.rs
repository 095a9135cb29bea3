//! One training or evaluation pass over the documents of several jobs that share a base model.

use tch::{Device, Kind, Reduction, Tensor};
use tunesmith_torch_ext::kernels::DropoutMask;

use crate::adapter::Adapter;
use crate::batch::PackedBatch;
use crate::causal_lm::CausalLm;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::modules::Site;

/// A sequence of tokens that sees no other.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// For each token, the weight of its cross-entropy in the loss, 0 where it is only read. The first token is never
    /// predicted, so its weight counts for nothing.
    pub weights: &'a [f32],
}

/// The documents of one job in a pass.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The job's adapter; none is the bare base model.
    pub adapter: Option<&'a Adapter>,
    /// Where the gradient is added, float32 like [`Adapter::flat`]. Needed for training only.
    pub gradient: Option<&'a Tensor>,
    /// What the gradient of the summed loss is multiplied with: 1 / the weights of the whole optimizer step.
    pub scale: f64,
    /// Where in its run the job is; acts only where the adapter has a dropout probability.
    pub dropout: Option<DropoutKey>,
    /// The documents.
    pub documents: Vec<Document<'a>>,
}

/// What a pass found out about one segment.
#[derive(Debug)]
pub struct Scores {
    /// Σ weight · cross-entropy, float64 scalar on the device.
    pub loss_sum: Tensor,
    /// How many of the predicted tokens with a weight were the most likely ones, int64 scalar on the device.
    pub correct: Tensor,
}

impl Segment<'_> {
    /// Whether dropout acts.
    pub(crate) fn drops(&self) -> bool {
        self.dropout.is_some()
            && self
                .adapter
                .is_some_and(|adapter| adapter.settings().dropout > 0.0)
    }

    /// The mask on the input of one site.
    pub(crate) fn mask(&self, site: Site) -> Option<DropoutMask> {
        let (key, adapter) = (self.dropout?, self.adapter?);
        let probability = adapter.settings().dropout;
        (probability > 0.0).then(|| DropoutMask {
            stream: key.stream(site),
            probability,
        })
    }
}

impl Scores {
    /// Of a pass in which nothing is learnt.
    pub(crate) fn zero(device: Device) -> Result<Self, ModelError> {
        Ok(Self {
            loss_sum: Tensor::f_zeros([] as [i64; 0], (Kind::Double, device))?,
            correct: Tensor::f_zeros([] as [i64; 0], (Kind::Int64, device))?,
        })
    }
}

impl CausalLm {
    /// What [`CausalLm::train_pass`] and [`CausalLm::score_pass`] compute, for one segment, through LibTorch's autograd:
    /// slower and larger, and written independently, so that each checks the other.
    ///
    /// # Errors
    /// As [`CausalLm::train_pass`].
    pub fn autograd_pass(&self, segment: &Segment<'_>, backward: bool) -> Result<Scores, ModelError> {
        let tokens: Vec<u32> = segment
            .documents
            .iter()
            .flat_map(|document| document.tokens)
            .copied()
            .collect();
        let lengths: Vec<usize> = segment
            .documents
            .iter()
            .map(|document| document.tokens.len())
            .collect();
        let batch = PackedBatch::new(&tokens, &lengths, self.device())?;
        let (mut rows, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for document in &segment.documents {
            for place in 1..document.tokens.len() {
                if document.weights[place] != 0.0 {
                    rows.push((start + place - 1) as i64);
                    targets.push(i64::from(document.tokens[place]));
                    weights.push(document.weights[place]);
                }
            }
            start += document.tokens.len();
        }
        if let (true, Some(adapter)) = (backward, segment.adapter) {
            adapter.set_trainable(true)?;
        }
        let hidden = self.hidden(&batch, segment.adapter, segment.dropout)?;
        let device = self.device();
        let picked = hidden.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(device)?)?;
        let targets = Tensor::f_from_slice(&targets)?.f_to_device(device)?;
        let weights = Tensor::f_from_slice(&weights)?.f_to_device(device)?;
        let logits = self
            .adapted_logits(&picked, segment.adapter, segment.dropout)?
            .f_to_kind(Kind::Float)?;
        let losses = logits.f_cross_entropy_loss(&targets, None::<&Tensor>, Reduction::None, -100, 0.0)?;
        let loss = losses.f_mul(&weights)?.f_sum(Kind::Float)?;
        if backward {
            loss.f_mul_scalar(segment.scale)?.f_backward()?;
            if let (Some(adapter), Some(gradient)) = (segment.adapter, segment.gradient) {
                adapter.take_gradients(gradient)?;
            }
        }
        Ok(Scores {
            loss_sum: loss.f_detach()?.f_to_kind(Kind::Double)?,
            correct: logits
                .f_argmax(-1, false)?
                .f_eq_tensor(&targets)?
                .f_sum(Kind::Int64)?,
        })
    }
}
