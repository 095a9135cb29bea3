//! One block, forward and backward.

use tch::Tensor;
use tunesmith_torch_ext::kernels::{
    Activation, Attended, AttentionShape, RotaryTable, attend, attend_backward, gate, gate_backward,
    rms_norm, rms_norm_backward, rms_norm_backward_add, rotate,
};

use super::layout::Layout;
use super::linear;
use super::patch::Narrow;
use super::product::ProductPatches;
use crate::config::{self, ModelConfig};
use crate::error::ModelError;
use crate::layer::Block;
use crate::modules::Projection;
use crate::norm::RmsNorm;

/// A block and what it needs of the pass.
pub(super) struct BlockPass<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) block: &'a Block,
    pub(super) window: Option<i64>,
    pub(super) rotary: &'a RotaryTable,
    /// int64 `[tokens]`: 0, 1, 2, …
    pub(super) rows: &'a Tensor,
    pub(super) layout: &'a Layout,
    /// In the order of [`Projection::ALL`].
    pub(super) patches: &'a [ProductPatches; 4],
    /// Whether only the scored rows go on behind the attention.
    pub(super) prunes: bool,
}

/// What the backward pass needs again. Norms and the gated product are computed anew.
pub(super) struct Saved {
    /// `[tokens, hidden]`: what came in.
    x: Tensor,
    /// Before its norms, where queries and keys have them.
    raw_qkv: Option<Tensor>,
    /// Normed and rotated.
    qkv: Tensor,
    attended: Attended,
    /// The attended rows that go on, where they are not all.
    picked: Option<Tensor>,
    /// What the attention gave, before the norm behind it, where there is one.
    attention_output: Option<Tensor>,
    /// `[rows, hidden]`: the residual stream between the two halves.
    middle: Tensor,
    gate_up: Tensor,
    mlp_output: Option<Tensor>,
    narrow: [Vec<Narrow>; 4],
}

#[cfg(test)]
impl Saved {
    /// All that is kept.
    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        let always = [
            &self.x,
            &self.qkv,
            &self.attended.out,
            &self.middle,
            &self.gate_up,
        ];
        let sometimes = [
            &self.raw_qkv,
            &self.picked,
            &self.attention_output,
            &self.mlp_output,
        ];
        let narrow = self.narrow.iter().flatten();
        always
            .into_iter()
            .chain(sometimes.into_iter().flatten())
            .chain(self.attended.denominators())
            .chain(narrow)
            .collect()
    }
}

impl BlockPass<'_> {
    /// `x: [tokens, hidden]` to `[rows, hidden]`; keeps what the backward pass needs where `keep` is set.
    pub(super) fn forward(&self, x: Tensor, keep: bool) -> Result<(Tensor, Option<Saved>), ModelError> {
        let (mut saved, product) = self.until_product(x, keep)?;
        let y = self.after_product(&product, &mut saved)?;
        Ok((y, keep.then_some(saved)))
    }

    /// What [`Self::forward`] would keep, made again from what came in. The block's output is left out where nothing of
    /// it is kept.
    pub(super) fn restore(&self, x: Tensor) -> Result<Saved, ModelError> {
        let (mut saved, product) = self.until_product(x, true)?;
        if self.block.post_mlp_norm.is_some() {
            drop(self.after_product(&product, &mut saved)?);
        } else {
            let down = Projection::Down as usize;
            saved.narrow[down] = self.patches[down].narrow(&product)?;
        }
        Ok(saved)
    }

    /// As far as the gated product, `[rows, intermediate]`; what comes behind it is not in the [`Saved`] yet.
    fn until_product(&self, x: Tensor, keep: bool) -> Result<(Saved, Tensor), ModelError> {
        let block = self.block;
        let (raw, narrow_qkv) = self.project(Projection::Qkv, &norm(&block.attention_norm, &x)?)?;
        let (qkv, raw_qkv) = self.prepare_heads(raw, keep)?;
        let attended = attend(&qkv, &self.layout.ends, self.shape())?;
        let picked = self
            .prunes
            .then(|| self.layout.pick_scored(&attended.out))
            .transpose()?;
        let (output, narrow_output) =
            self.project(Projection::Output, picked.as_ref().unwrap_or(&attended.out))?;
        let stream = if self.prunes {
            self.layout.pick_scored(&x)?
        } else {
            x.shallow_clone()
        };
        let (middle, attention_output) = add_normed(&stream, output, block.post_attention_norm.as_ref())?;
        drop(stream);
        let (gate_up, narrow_gate_up) = self.project(Projection::GateUp, &norm(&block.mlp_norm, &middle)?)?;
        let product = gate(&gate_up, self.activation())?;
        let saved = Saved {
            x,
            raw_qkv,
            qkv,
            attended,
            picked,
            attention_output,
            middle,
            gate_up,
            mlp_output: None,
            narrow: [narrow_qkv, narrow_output, narrow_gate_up, Vec::new()],
        };
        Ok((saved, product))
    }

    /// From the gated product to the block's output, `[rows, hidden]`.
    fn after_product(&self, product: &Tensor, saved: &mut Saved) -> Result<Tensor, ModelError> {
        let (down, narrow) = self.project(Projection::Down, product)?;
        saved.narrow[Projection::Down as usize] = narrow;
        let (y, mlp_output) = add_normed(&saved.middle, down, self.block.post_mlp_norm.as_ref())?;
        saved.mlp_output = mlp_output;
        Ok(y)
    }

    /// `gradient: [rows, hidden]` of what [`Self::forward`] gave to that of what came in, `[tokens, hidden]`; the latter
    /// is left out where the pass does not go on below.
    pub(super) fn backward(
        &self,
        gradient: Tensor,
        saved: Saved,
        goes_on: bool,
    ) -> Result<Option<Tensor>, ModelError> {
        let mut saved = saved;
        let gradient = self.mlp_backward(gradient, &mut saved)?;
        self.attention_backward(gradient, saved, goes_on)
    }

    /// To the gradient of the stream between the two halves.
    fn mlp_backward(&self, gradient: Tensor, saved: &mut Saved) -> Result<Tensor, ModelError> {
        let block = self.block;
        let own = behind_norm(&gradient, saved.mlp_output.take(), block.post_mlp_norm.as_ref())?;
        let down = &block.projections[Projection::Down as usize];
        let product = linear::backward(&down.weight, &own)?;
        let patches = &self.patches[Projection::Down as usize];
        let slopes = patches.slopes(&saved.narrow[Projection::Down as usize], &own)?;
        patches.pass_down(&slopes, &product)?;
        // Puts the product itself, which A's gradient needs, in the place of its gradient.
        gate_backward(&saved.gate_up, &product, self.activation())?;
        patches.learn(&product, &slopes)?;
        drop(product);
        let normed = norm(&block.mlp_norm, &saved.middle)?;
        let slope = self.project_backward(Projection::GateUp, saved, &normed, &saved.gate_up, true)?;
        drop(normed);
        let slope = slope.expect("invariant: the input's gradient was asked for");
        let weight = block.mlp_norm.effective_weight()?;
        rms_norm_backward_add(&saved.middle, &weight, block.mlp_norm.epsilon, &slope, &gradient)?;
        Ok(gradient)
    }

    fn attention_backward(
        &self,
        gradient: Tensor,
        mut saved: Saved,
        goes_on: bool,
    ) -> Result<Option<Tensor>, ModelError> {
        let block = self.block;
        let own = behind_norm(
            &gradient,
            saved.attention_output.take(),
            block.post_attention_norm.as_ref(),
        )?;
        let input = saved.picked.as_ref().unwrap_or(&saved.attended.out);
        let needs_attention = goes_on || !self.patches[Projection::Qkv as usize].is_empty();
        let slope = self.project_backward(Projection::Output, &saved, input, &own, needs_attention)?;
        drop(own);
        let Some(slope) = slope else { return Ok(None) };
        let slope = if self.prunes {
            self.layout.spread_scored(&slope)?
        } else {
            slope
        };
        let (ends, shape) = (&self.layout.ends, self.shape());
        let heads = attend_backward(&saved.qkv, ends, shape, &saved.attended, &slope)?;
        drop(slope);
        self.heads_backward(&heads, saved.raw_qkv.as_ref())?;
        let normed = norm(&block.attention_norm, &saved.x)?;
        let slope = self.project_backward(Projection::Qkv, &saved, &normed, &heads, goes_on)?;
        let Some(slope) = slope else { return Ok(None) };
        let below = if self.prunes {
            self.layout.spread_scored(&gradient)?
        } else {
            gradient
        };
        let weight = block.attention_norm.effective_weight()?;
        rms_norm_backward_add(&saved.x, &weight, block.attention_norm.epsilon, &slope, &below)?;
        Ok(Some(below))
    }

    /// The base product and what the adapters add to it.
    fn project(&self, projection: Projection, x: &Tensor) -> Result<(Tensor, Vec<Narrow>), ModelError> {
        let y = linear::forward(&self.block.projections[projection as usize], x)?;
        let narrow = self.patches[projection as usize].forward(x, &y)?;
        Ok((y, narrow))
    }

    /// Adds to the gradients of the adapters; returns the gradient of `x` where it is wanted.
    fn project_backward(
        &self,
        projection: Projection,
        saved: &Saved,
        x: &Tensor,
        dy: &Tensor,
        wants_input: bool,
    ) -> Result<Option<Tensor>, ModelError> {
        let weight = &self.block.projections[projection as usize].weight;
        let dx = wants_input.then(|| linear::backward(weight, dy)).transpose()?;
        let (patches, narrow) = (
            &self.patches[projection as usize],
            &saved.narrow[projection as usize],
        );
        patches.backward(x, narrow, dy, dx.as_ref())?;
        Ok(dx)
    }

    /// Norms of queries and keys, where the family has them, and rotation. Also gives what was before the norms.
    fn prepare_heads(&self, raw: Tensor, keep: bool) -> Result<(Tensor, Option<Tensor>), ModelError> {
        let (qkv, raw_qkv) = if self.config.qk_norm {
            let normed = raw.f_detach_copy()?;
            for (heads, norm) in self.normed_heads(&normed)? {
                let weight = norm.effective_weight()?;
                let count = heads.size()[1] / self.config.head_dim;
                heads
                    .shallow_clone()
                    .f_copy_(&rms_norm(&heads, &weight, norm.epsilon, count)?)?;
            }
            (normed, keep.then_some(raw))
        } else {
            (raw, None)
        };
        self.turn(&qkv, false)?;
        Ok((qkv, raw_qkv))
    }

    /// The gradient of [`Self::prepare_heads`], in place.
    fn heads_backward(&self, gradient: &Tensor, raw: Option<&Tensor>) -> Result<(), ModelError> {
        self.turn(gradient, true)?;
        let Some(raw) = raw else { return Ok(()) };
        let slopes = self.normed_heads(gradient)?;
        for ((heads, norm), (slope, _)) in self.normed_heads(raw)?.into_iter().zip(slopes) {
            let count = heads.size()[1] / self.config.head_dim;
            rms_norm_backward(&heads, &norm.effective_weight()?, norm.epsilon, count, &slope)?;
        }
        Ok(())
    }

    /// The columns of queries and of keys, each with its norm.
    fn normed_heads(&self, qkv: &Tensor) -> Result<Vec<(Tensor, &RmsNorm)>, ModelError> {
        let (queries, keys) = (
            self.config.heads * self.config.head_dim,
            self.config.kv_heads * self.config.head_dim,
        );
        let columns = [
            (0, queries, &self.block.q_norm),
            (queries, keys, &self.block.k_norm),
        ];
        columns
            .into_iter()
            .filter_map(|(start, width, norm)| Some((start, width, norm.as_ref()?)))
            .map(|(start, width, norm)| Ok((qkv.f_narrow(1, start, width)?, norm)))
            .collect()
    }

    fn turn(&self, qkv: &Tensor, back: bool) -> Result<(), ModelError> {
        let heads = self.config.heads + self.config.kv_heads;
        let last = qkv.size()[0] - 1;
        Ok(rotate(
            qkv,
            heads,
            self.config.head_dim,
            self.rotary,
            self.rows,
            last,
            back,
        )?)
    }

    fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            scale: self.config.attention_scale,
            window: self.window,
            softcap: self.config.attention_softcap,
        }
    }

    fn activation(&self) -> Activation {
        match self.config.activation {
            config::Activation::Silu => Activation::Silu,
            config::Activation::GeluTanh => Activation::GeluTanh,
        }
    }
}

/// What a norm multiplies with, float32.
pub(super) fn norm(norm: &RmsNorm, x: &Tensor) -> Result<Tensor, ModelError> {
    Ok(rms_norm(x, &norm.effective_weight()?, norm.epsilon, 1)?)
}

/// `stream + own`, with the norm behind `own` where there is one; then `own` is given back as well.
fn add_normed(
    stream: &Tensor,
    own: Tensor,
    behind: Option<&RmsNorm>,
) -> Result<(Tensor, Option<Tensor>), ModelError> {
    match behind {
        Some(behind) => {
            let mut sum = norm(behind, &own)?;
            let _ = sum.f_add_(stream)?;
            Ok((sum, Some(own)))
        }
        None => {
            let mut sum = own;
            let _ = sum.f_add_(stream)?;
            Ok((sum, None))
        }
    }
}

/// The gradient of `own` in [`add_normed`].
fn behind_norm(
    gradient: &Tensor,
    own: Option<Tensor>,
    behind: Option<&RmsNorm>,
) -> Result<Tensor, ModelError> {
    match (own, behind) {
        (Some(own), Some(behind)) => {
            let slope = gradient.f_detach_copy()?;
            rms_norm_backward(&own, &behind.effective_weight()?, behind.epsilon, 1, &slope)?;
            Ok(slope)
        }
        _ => Ok(gradient.shallow_clone()),
    }
}
