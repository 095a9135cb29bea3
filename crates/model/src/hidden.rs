//! The forward pass of training through LibTorch's autograd: with the graph of the whole model, or, in little memory,
//! without one. Then what came into each block is kept alone, and the way back computes each block again, with the graph
//! of that one block.

use tch::{Kind, Tensor, no_grad_guard};

use crate::adapter::Adapter;
use crate::attention::Attend;
use crate::batch::PackedBatch;
use crate::causal_lm::CausalLm;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::layer::Pass;
use crate::lora::LoraPass;
use crate::rotation::Places;

/// A forward pass that can be gone back through, once.
#[derive(Debug)]
pub struct RecomputedPass<'a> {
    model: &'a CausalLm,
    batch: &'a PackedBatch,
    /// What came into each block, and what the last one gave: `[total, hidden]`, rows as in the batch.
    streams: Vec<Tensor>,
    hidden: Tensor,
}

impl CausalLm {
    /// The residual stream behind the last norm, `[total, hidden]`, rows in the caller's order. Training's forward pass:
    /// gradients flow to whatever requires them, so guard evaluation with `tch::no_grad_guard()`.
    ///
    /// `dropout` says where in the run this pass is; it acts only where the adapter has a dropout probability.
    ///
    /// # Errors
    /// A token is outside the vocabulary, or LibTorch refused, most often for want of memory.
    pub fn hidden(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
        dropout: Option<DropoutKey>,
    ) -> Result<Tensor, ModelError> {
        self.check_token(batch.largest_token)?;
        let mut attention = batch;
        let mut pass = self.batch_pass(batch, &mut attention, adapter, dropout)?;
        let x = self.run_blocks(&batch.tokens, &mut pass)?;
        self.leave(&x, batch)
    }

    /// What the blocks share in a pass over `batch`.
    fn batch_pass<'a>(
        &'a self,
        batch: &PackedBatch,
        attention: &'a mut dyn Attend,
        adapter: Option<&'a Adapter>,
        dropout: Option<DropoutKey>,
    ) -> Result<Pass<'a>, ModelError> {
        let places = Places {
            positions: &batch.positions,
            lengths: &batch.lengths,
        };
        let lora = LoraPass::uniform(adapter, batch.total(), dropout);
        self.pass(places, attention, lora)
    }

    /// From behind the last block to what [`Self::hidden`] gives.
    fn leave(&self, x: &Tensor, batch: &PackedBatch) -> Result<Tensor, ModelError> {
        let hidden = self.final_norm.forward(x)?;
        match &batch.restore {
            Some(restore) => Ok(hidden.f_index_select(0, restore)?),
            None => Ok(hidden),
        }
    }

    /// [`Self::hidden`] without an adapter, and without its graph.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_recomputed<'a>(&'a self, batch: &'a PackedBatch) -> Result<RecomputedPass<'a>, ModelError> {
        let _guard = no_grad_guard();
        self.check_token(batch.largest_token)?;
        let mut attention = batch;
        let mut pass = self.batch_pass(batch, &mut attention, None, None)?;
        let mut streams = vec![self.embed(&batch.tokens, &pass.lora)?];
        for block in &self.blocks {
            let y = block.forward(&streams[streams.len() - 1], &mut pass)?;
            streams.push(y);
        }
        Ok(RecomputedPass {
            hidden: self.leave(&streams[streams.len() - 1], batch)?,
            model: self,
            batch,
            streams,
        })
    }
}

impl RecomputedPass<'_> {
    /// What [`CausalLm::hidden`] gives, `[total, hidden]`.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Adds the gradients of Σ `hidden · gradient` to those of the weights. `gradient: [total, hidden]`, in the format of
    /// [`Self::hidden`].
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn backward(mut self, gradient: &Tensor) -> Result<(), ModelError> {
        let (model, batch) = (self.model, self.batch);
        let mut attention = batch;
        let mut pass = model.batch_pass(batch, &mut attention, None, None)?;
        let mut next = || {
            let stream = self.streams.pop();
            stream.expect("invariant: there is a stream before each block and behind the last")
        };
        let mut gradient = go_back(&next(), gradient, |x| model.leave(x, batch))?;
        for block in model.blocks.iter().rev() {
            gradient = go_back(&next(), &gradient, |x| block.forward(x, &mut pass))?;
        }
        pull(&model.embed(&batch.tokens, &pass.lora)?, &gradient)
    }
}

/// The gradient of Σ `forward(x) · gradient` with respect to `x`; weights collect theirs.
fn go_back(
    x: &Tensor,
    gradient: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let x = x.f_detach()?.f_set_requires_grad(true)?;
    pull(&forward(&x)?, gradient)?;
    Ok(x.f_grad()?)
}

/// The gradient of Σ `y · gradient` with respect to `y` is exactly `gradient`.
fn pull(y: &Tensor, gradient: &Tensor) -> Result<(), ModelError> {
    y.f_mul(gradient)?.f_sum(Kind::Float)?.f_backward()?;
    Ok(())
}
