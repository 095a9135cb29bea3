//! The forward pass of inference by fused kernels: new tokens of several sequences, each with its own cache and adapter.
//!
//! It computes what [`Block::forward`] computes; tests hold one against the other.

use tch::{Kind, Tensor};
use tunesmith_torch_ext::kernels::{self, Activation, RotaryTable, gate, rms_norm, rotate, serving_linear};

use crate::cache::CachedSequences;
use crate::causal_lm::CausalLm;
use crate::config;
use crate::error::ModelError;
use crate::layer::Block;
use crate::lora::LoraPass;
use crate::merged::MergedWeights;
use crate::modules::Projection;
use crate::norm::RmsNorm;
use crate::rotation::Places;
use crate::rows::RowPass;

/// One step of inference.
pub(crate) struct ServingPass<'a> {
    model: &'a CausalLm,
    attention: CachedSequences<'a>,
    lora: LoraPass<'a>,
    /// The step's table, where the device has kernels that read one.
    by_row: Option<RowPass<'a>>,
    /// The weights with the adapter of all sequences folded in.
    merged: Option<&'a MergedWeights>,
    /// One per rope of the model; a row for each token of the step.
    rotary: Vec<RotaryTable>,
    /// int64 `[tokens]`: 0, 1, 2, …
    rows: Tensor,
}

impl<'a> ServingPass<'a> {
    pub(crate) fn new(
        model: &'a CausalLm,
        places: Places<'_>,
        attention: CachedSequences<'a>,
        lora: LoraPass<'a>,
        by_row: Option<RowPass<'a>>,
        merged: Option<&'a MergedWeights>,
    ) -> Result<Self, ModelError> {
        let tables = model.ropes.iter().map(|rope| {
            let (cosine, sine) = rope.cos_sin(places)?;
            Ok(RotaryTable::new(cosine, sine)?)
        });
        Ok(Self {
            attention,
            lora,
            by_row,
            merged,
            rotary: tables.collect::<Result<_, ModelError>>()?,
            rows: Tensor::f_arange(places.positions.size()[0], (Kind::Int64, model.device()))?,
            model,
        })
    }

    /// The embedded tokens `x: [tokens, hidden]` to the residual stream behind the last norm.
    pub(crate) fn run(&self, x: Tensor) -> Result<Tensor, ModelError> {
        let mut x = x;
        for (number, block) in self.model.blocks.iter().enumerate() {
            x = self.block(number, block, x)?;
        }
        norm(&self.model.final_norm, &x, 1)
    }

    fn block(&self, number: usize, block: &Block, mut x: Tensor) -> Result<Tensor, ModelError> {
        let normed = norm(&block.attention_norm, &x, 1)?;
        let qkv = self.project(number, block, Projection::Qkv, &normed)?;
        self.place_heads(number, block, &qkv)?;
        let rows = self.by_row.as_ref();
        let attended = self
            .attention
            .attend_rows(number, &self.model.config, &qkv, rows)?;
        let output = self.project(number, block, Projection::Output, &attended)?;
        let _ = x.f_add_(&behind(block.post_attention_norm.as_ref(), output)?)?;
        let normed = norm(&block.mlp_norm, &x, 1)?;
        let gate_up = self.project(number, block, Projection::GateUp, &normed)?;
        let down = self.project(
            number,
            block,
            Projection::Down,
            &gate(&gate_up, self.activation())?,
        )?;
        let _ = x.f_add_(&behind(block.post_mlp_norm.as_ref(), down)?)?;
        Ok(x)
    }

    /// Norms queries and keys, where the family does, and turns them to their positions, in place.
    fn place_heads(&self, number: usize, block: &Block, qkv: &Tensor) -> Result<(), ModelError> {
        let config = &self.model.config;
        let parts = [
            (0, config.heads, &block.q_norm),
            (config.heads, config.kv_heads, &block.k_norm),
        ];
        for (first, heads, head_norm) in parts {
            if let Some(head_norm) = head_norm {
                let mut part = qkv.f_narrow(1, first * config.head_dim, heads * config.head_dim)?;
                part.f_copy_(&norm(head_norm, &part, heads)?)?;
            }
        }
        rotate(
            qkv,
            config.heads + config.kv_heads,
            config.head_dim,
            &self.rotary[config.rope_of_layer[number]],
            &self.rows,
            self.rows.size()[0] - 1,
            false,
        )?;
        Ok(())
    }

    /// The base layer, and what the adapters add to it.
    fn project(
        &self,
        number: usize,
        block: &Block,
        projection: Projection,
        x: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let linear = &block.projections[projection as usize];
        if let Some(weight) = self.merged.and_then(|merged| merged.weight(number, projection)) {
            return Ok(serving_linear(x, weight, linear.bias.as_ref())?);
        }
        let y = serving_linear(x, &linear.weight, linear.bias.as_ref())?;
        if let Some(rows) = self.by_row.as_ref().filter(|rows| rows.has_adapters()) {
            rows.add(&self.model.config, number, projection, x, &y)?;
            return Ok(y);
        }
        self.lora
            .serve_projection(y, x, &self.model.config, number, projection)
    }

    fn activation(&self) -> Activation {
        match self.model.config.activation {
            config::Activation::Silu => Activation::Silu,
            config::Activation::GeluTanh => Activation::GeluTanh,
        }
    }
}

fn norm(norm: &RmsNorm, x: &Tensor, heads: i64) -> Result<Tensor, ModelError> {
    Ok(rms_norm(x, &norm.effective_weight()?, norm.epsilon, heads)?)
}

fn behind(norm_behind: Option<&RmsNorm>, y: Tensor) -> Result<Tensor, ModelError> {
    match norm_behind {
        Some(norm_behind) => norm(norm_behind, &y, 1),
        None => Ok(y),
    }
}

/// How a block attends, as the kernels take it.
pub(crate) fn attention_shape(config: &crate::config::ModelConfig, layer: usize) -> kernels::AttentionShape {
    kernels::AttentionShape {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: config.attention_scale,
        window: config.windows[layer],
        softcap: config.attention_softcap,
    }
}
