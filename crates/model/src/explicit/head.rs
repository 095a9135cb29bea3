//! The last norm, the output head and the loss, on the scored rows only, in chunks: nothing as large as rows × vocabulary
//! outlives a chunk, and the gradient comes in the same go.

use tch::{Kind, Tensor};
use tunesmith_torch_ext::kernels::{cross_entropy, linear, rms_norm_backward};

use super::Pass;
use super::block::norm;
use super::layout::Rows;
use super::linear;
use super::patch::Patch;
use crate::error::ModelError;
use crate::training::{Scores, Segment};

/// Bytes of one chunk's scores: on a CPU enough rows to make up for reading the head, on a GPU enough to fill it.
const CPU_CHUNK_BYTES: i64 = 64 << 20;
const CUDA_CHUNK_BYTES: i64 = 512 << 20;

/// A segment's adapter on the head: `S` of all its rows, and the gradient of `S`.
struct HeadPatch<'a> {
    patch: &'a Patch,
    narrow: Tensor,
    slope: Option<Tensor>,
}

/// What the chunks fill in.
struct Chunks<'a> {
    /// `[scored, hidden]`.
    normed: Tensor,
    weights: Tensor,
    patches: Vec<HeadPatch<'a>>,
    /// The gradient of `normed`.
    slope: Option<Tensor>,
    losses: Vec<Tensor>,
    hits: Vec<Tensor>,
}

impl Pass<'_> {
    /// `x: [scored, hidden]`, what the last block gave, to each segment's scores and, for training, the gradient of `x`.
    pub(super) fn score(
        &self,
        x: &Tensor,
        segments: &[Segment<'_>],
        backward: bool,
    ) -> Result<(Vec<Scores>, Option<Tensor>), ModelError> {
        let scales = || {
            segments
                .iter()
                .map(|segment| if backward { segment.scale } else { 1.0 })
        };
        let normed = norm(&self.model.final_norm, x)?;
        let mut chunks = Chunks {
            weights: self.layout.scaled_weights(scales())?,
            patches: self.head_patches(&normed, backward)?,
            slope: backward.then(|| normed.f_empty_like()).transpose()?,
            normed,
            losses: Vec::new(),
            hits: Vec::new(),
        };
        let (rows, step) = (self.layout.scored_rows(), self.chunk_rows());
        for start in (0..rows).step_by(step as usize) {
            let count = step.min(rows - start);
            self.score_chunk(&mut chunks, Rows { start, count })?;
        }
        let scores = self.scores(&chunks, scales())?;
        let Some(slope) = chunks.slope.take() else {
            return Ok((scores, None));
        };
        for head in &chunks.patches {
            let own = head
                .slope
                .as_ref()
                .expect("invariant: made for every backward pass");
            head.patch.learn(&chunks.normed, own)?;
            head.patch.pass_down(own, &slope)?;
        }
        let weight = self.model.final_norm.effective_weight()?;
        rms_norm_backward(x, &weight, self.model.final_norm.epsilon, 1, &slope)?;
        Ok((scores, Some(slope)))
    }

    fn score_chunk(&self, chunks: &mut Chunks<'_>, rows: Rows) -> Result<(), ModelError> {
        let normed = rows.of(&chunks.normed)?;
        let logits = linear(&normed, self.model.head_weight())?;
        for head in &chunks.patches {
            if let Some((here, there)) = head.patch.overlap(rows.start, rows.count) {
                head.patch.widen(&there.of(&head.narrow)?, &here.of(&logits)?)?;
            }
        }
        let (targets, weights) = (rows.of(&self.layout.targets)?, rows.of(&chunks.weights)?);
        let gradient_scale = chunks.slope.is_some().then_some(1.0);
        let softcap = self.model.config().final_softcap;
        let found = cross_entropy(&logits, &targets, &weights, gradient_scale, softcap)?;
        chunks.losses.push(found.losses);
        chunks.hits.push(found.hits);
        let Some(slope) = &chunks.slope else { return Ok(()) };
        // The scores have become their gradient.
        let own = linear::backward(self.model.head_weight(), &logits)?;
        rows.of(slope)?.f_copy_(&own)?;
        for head in &chunks.patches {
            if let (Some((here, there)), Some(place)) =
                (head.patch.overlap(rows.start, rows.count), &head.slope)
            {
                let own = head
                    .patch
                    .widen_backward(&there.of(&head.narrow)?, &here.of(&logits)?)?;
                there.of(place)?.f_copy_(&own)?;
            }
        }
        Ok(())
    }

    fn head_patches(&self, normed: &Tensor, backward: bool) -> Result<Vec<HeadPatch<'_>>, ModelError> {
        let slope = |patch: &Patch| {
            Tensor::f_empty(
                [patch.row_count(), patch.rank()],
                (normed.f_kind()?, normed.device()),
            )
        };
        let patches = self.patches.head().iter().filter(|patch| patch.row_count() > 0);
        patches
            .map(|patch| {
                Ok(HeadPatch {
                    narrow: patch.narrow(normed)?,
                    slope: backward.then(|| slope(patch)).transpose()?,
                    patch,
                })
            })
            .collect()
    }

    /// Per segment: the sum of its rows' losses, without the factor that their weights were multiplied with.
    fn scores(
        &self,
        chunks: &Chunks<'_>,
        scales: impl Iterator<Item = f64>,
    ) -> Result<Vec<Scores>, ModelError> {
        let (losses, hits) = (Tensor::f_cat(&chunks.losses, 0)?, Tensor::f_cat(&chunks.hits, 0)?);
        scales
            .zip(&self.layout.scored)
            .map(|(scale, rows)| {
                if rows.count == 0 {
                    return Scores::zero(self.model.device());
                }
                Ok(Scores {
                    loss_sum: rows.of(&losses)?.f_sum(Kind::Double)?.f_div_scalar(scale)?,
                    correct: rows.of(&hits)?.f_sum(Kind::Int64)?,
                })
            })
            .collect()
    }

    fn chunk_rows(&self) -> i64 {
        let model = self.model;
        let (bytes, width) = if model.device().is_cuda() {
            (CUDA_CHUNK_BYTES, 2)
        } else {
            (
                CPU_CHUNK_BYTES,
                model.precision().compute.elt_size_in_bytes() as i64,
            )
        };
        (bytes / (width * model.config().vocab_size)).max(64)
    }
}
