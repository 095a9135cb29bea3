//! The training pass with its backward written out: no graph, every activation kept once, gradients of adapters only.
//!
//! ```text
//! documents of all jobs, end to end ──▶ embedding ──▶ blocks ──▶ norm ──▶ head ──▶ cross-entropy, in chunks of rows
//!            each base product is one matmul for all jobs; each job's LoRA acts on its own rows
//! ```
//!
//! What is left out, against autograd: gradients of frozen weights, scores of tokens that no loss asks for, the MLP and
//! the attention output of such tokens in the last block, everything below the lowest adapted block, and tokens behind
//! the last one that is learnt. A pass that does not fit into memory keeps what came into each block alone and computes
//! the rest again ([`Keep`]). LibTorch's autograd on the same model ([`CausalLm::hidden`]) is the oracle of the tests.

mod block;
mod grouped;
mod head;
mod layout;
mod linear;
mod memory;
mod patch;
mod patches;
mod product;
#[cfg(test)]
mod tests;

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::kernels::{RotaryTable, grouped_mm_is_one_launch};

use self::block::{BlockPass, Saved};
use self::layout::Layout;
pub use self::memory::Keep;
use self::patches::Patches;
use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::rotation::Places;
use crate::training::{Scores, Segment};

/// What a block leaves for its backward pass.
enum Kept {
    All(Box<Saved>),
    /// `[tokens, hidden]`.
    Input(Tensor),
}

/// What all blocks of one pass share.
struct Pass<'a> {
    model: &'a CausalLm,
    layout: &'a Layout,
    patches: &'a Patches,
    /// One per rope of the model; a row of the table is a row of the batch.
    rotary: Vec<RotaryTable>,
    /// int64 `[tokens]`: 0, 1, 2, …
    rows: Tensor,
}

impl CausalLm {
    /// Forward and backward pass: adds each segment's gradient to its buffer.
    ///
    /// # Errors
    /// A segment has no tokens, a token is outside the vocabulary, or LibTorch refused, most often for want of memory.
    pub fn train_pass(&self, segments: &[Segment<'_>]) -> Result<Vec<Scores>, ModelError> {
        self.train_pass_keeping(segments, Keep::All)
    }

    /// [`Self::train_pass`] that keeps more or less until its backward pass. The gradients are the same to the last bit.
    ///
    /// # Errors
    /// As [`Self::train_pass`].
    pub fn train_pass_keeping(
        &self,
        segments: &[Segment<'_>],
        keep: Keep,
    ) -> Result<Vec<Scores>, ModelError> {
        self.explicit_pass(segments, Some(keep), self.groups_jobs())
    }

    /// Forward pass only.
    ///
    /// # Errors
    /// As [`Self::train_pass`].
    pub fn score_pass(&self, segments: &[Segment<'_>]) -> Result<Vec<Scores>, ModelError> {
        self.explicit_pass(segments, None, self.groups_jobs())
    }

    /// Whether a pass makes the LoRA products of all jobs at once.
    fn groups_jobs(&self) -> bool {
        grouped_mm_is_one_launch(self.device(), self.precision().compute)
    }

    /// `keep`: what the backward pass finds; there is none without. `grouped`: as [`Self::groups_jobs`].
    fn explicit_pass(
        &self,
        segments: &[Segment<'_>],
        keep: Option<Keep>,
        grouped: bool,
    ) -> Result<Vec<Scores>, ModelError> {
        let _guard = no_grad_guard();
        let layout = Layout::new(segments, self.config().vocab_size, self.device())?;
        if layout.scored_rows() == 0 {
            return segments.iter().map(|_| Scores::zero(self.device())).collect();
        }
        let patches = Patches::new(self, segments, &layout, keep.is_some(), grouped)?;
        let pass = Pass::new(self, &layout, &patches)?;
        pass.run(segments, keep)
    }
}

impl<'a> Pass<'a> {
    fn new(model: &'a CausalLm, layout: &'a Layout, patches: &'a Patches) -> Result<Self, ModelError> {
        let places = Places {
            positions: &layout.positions,
            lengths: &layout.lengths,
        };
        let rotary = model
            .ropes
            .iter()
            .map(|rope| {
                let (cosine, sine) = rope.cos_sin(places)?;
                Ok(RotaryTable::new(cosine, sine)?)
            })
            .collect::<Result<_, ModelError>>()?;
        let rows = Tensor::f_arange(layout.tokens(), (Kind::Int64, model.device()))?;
        Ok(Self {
            model,
            layout,
            patches,
            rotary,
            rows,
        })
    }

    fn run(&self, segments: &[Segment<'_>], keep: Option<Keep>) -> Result<Vec<Scores>, ModelError> {
        let (x, kept) = self.forward(keep)?;
        let picked = if self.layout.prunes_last_block {
            x
        } else {
            self.layout.pick_scored(&x)?
        };
        let (scores, gradient) = self.score(&picked, segments, keep.is_some())?;
        drop(picked);
        if let Some(gradient) = gradient {
            self.backward(gradient, kept)?;
        }
        Ok(scores)
    }

    /// What the last block gives, and what each block that is gone back through leaves for that.
    fn forward(&self, keep: Option<Keep>) -> Result<(Tensor, Vec<Kept>), ModelError> {
        let mut x = self.embed()?;
        let lowest = self.patches.lowest_block();
        let mut kept = Vec::new();
        for (number, block) in self.model.blocks.iter().enumerate() {
            let pass = self.block_pass(number, block);
            let keep = keep.filter(|_| lowest.is_some_and(|lowest| number >= lowest));
            if keep == Some(Keep::Inputs) {
                kept.push(Kept::Input(x.shallow_clone()));
            }
            let (y, saved) = pass.forward(x, keep == Some(Keep::All))?;
            kept.extend(saved.map(|saved| Kept::All(Box::new(saved))));
            x = y;
        }
        Ok((x, kept))
    }

    /// Goes back from the gradient of the scored rows behind the last block.
    fn backward(&self, scored: Tensor, mut kept: Vec<Kept>) -> Result<(), ModelError> {
        let Some(lowest) = self.patches.lowest_block() else {
            return Ok(());
        };
        let mut gradient = if self.layout.prunes_last_block {
            scored
        } else {
            self.layout.spread_scored(&scored)?
        };
        for number in (lowest..self.model.blocks.len()).rev() {
            let block = &self.model.blocks[number];
            let pass = self.block_pass(number, block);
            let left = kept
                .pop()
                .expect("invariant: every block from the lowest on was kept");
            let saved = match left {
                Kept::All(saved) => *saved,
                Kept::Input(x) => pass.restore(x)?,
            };
            let goes_on = number > lowest || self.patches.has_embedding();
            match pass.backward(gradient, saved, goes_on)? {
                Some(below) => gradient = below,
                None => return Ok(()),
            }
        }
        self.patches.embed_backward(self.model, self.layout, &gradient)
    }

    fn block_pass(&self, number: usize, block: &'a crate::layer::Block) -> BlockPass<'_> {
        let config = self.model.config();
        BlockPass {
            config,
            block,
            window: config.windows[number],
            rotary: &self.rotary[config.rope_of_layer[number]],
            rows: &self.rows,
            layout: self.layout,
            patches: self.patches.of_block(number),
            prunes: self.layout.prunes_last_block && number + 1 == config.layers,
        }
    }

    /// `[tokens, hidden]` in the compute format.
    fn embed(&self) -> Result<Tensor, ModelError> {
        let model = self.model;
        let kind = model.precision().compute;
        let embedded = Tensor::f_embedding(&model.embedding, &self.layout.token_ids, -1, false, false)?;
        let x = embedded.f_to_kind(kind)?;
        let x = match model.config().embedding_scale {
            Some(scale) => x.f_mul(&Tensor::f_scalar_tensor(scale, (kind, model.device()))?)?,
            None => x,
        };
        self.patches.embed(model, self.layout, &x)?;
        Ok(x)
    }
}
