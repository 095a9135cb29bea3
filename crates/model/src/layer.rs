//! One transformer block: attention and MLP, each behind an RMSNorm and around a residual.

use tch::Tensor;

use crate::attention::{Attend, AttentionShape};
use crate::config::{Activation, ModelConfig};
use crate::error::ModelError;
use crate::linear::Linear;
use crate::lora::LoraPass;
use crate::modules::Projection;
use crate::norm::RmsNorm;
use crate::rotation::Rotation;
use crate::weights::{Loader, norms};

/// What all blocks of one forward pass share.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a ModelConfig,
    /// One per rope of the model.
    pub(crate) rotations: Vec<Rotation>,
    pub(crate) attention: &'a mut dyn Attend,
    pub(crate) lora: LoraPass<'a>,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`; in families with sandwich norms what is added is normed too.
#[derive(Debug)]
pub(crate) struct Block {
    number: usize,
    pub(crate) attention_norm: RmsNorm,
    pub(crate) post_attention_norm: Option<RmsNorm>,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) post_mlp_norm: Option<RmsNorm>,
    /// Over each head, `[head_dim]`.
    pub(crate) q_norm: Option<RmsNorm>,
    pub(crate) k_norm: Option<RmsNorm>,
    /// In the order of [`Projection::ALL`].
    pub(crate) projections: [Linear; 4],
}

impl Block {
    pub(crate) fn load(loader: &Loader<'_>, number: usize) -> Result<Self, ModelError> {
        let config = loader.config;
        let norm = |name: &str, width| loader.norm(&format!("model.layers.{number}.{name}"), width);
        let of_stream = |name: &str| norm(name, config.hidden_size);
        let of_head = |name: &str| {
            let head = config.qk_norm.then(|| norm(name, config.head_dim));
            head.transpose()
        };
        // What Llama calls the norm behind attention is, in truth, the one before the MLP.
        let (mlp, behind) = if config.sandwich_norms {
            let behind = (
                of_stream("post_attention_layernorm")?,
                of_stream("post_feedforward_layernorm")?,
            );
            ("pre_feedforward_layernorm", Some(behind))
        } else {
            ("post_attention_layernorm", None)
        };
        let (post_attention_norm, post_mlp_norm) = behind.unzip();
        let [qkv, output, gate_up, down] =
            Projection::ALL.map(|projection| Linear::load(loader, number, projection));
        Ok(Self {
            number,
            attention_norm: of_stream("input_layernorm")?,
            post_attention_norm,
            mlp_norm: of_stream(mlp)?,
            post_mlp_norm,
            q_norm: of_head("self_attn.q_norm")?,
            k_norm: of_head("self_attn.k_norm")?,
            projections: [qkv?, output?, gate_up?, down?],
        })
    }

    /// The norms with their names in the block, in the order of [`norms`].
    pub(crate) fn norms(&self, config: &ModelConfig) -> Vec<(&'static str, &RmsNorm)> {
        let behind_attention = self.post_attention_norm.as_ref().unwrap_or(&self.mlp_norm);
        let found = [
            Some(&self.attention_norm),
            self.q_norm.as_ref(),
            self.k_norm.as_ref(),
        ]
        .into_iter()
        .chain([Some(behind_attention)])
        .chain([
            self.post_mlp_norm.as_ref().map(|_| &self.mlp_norm),
            self.post_mlp_norm.as_ref(),
        ]);
        norms(config)
            .into_iter()
            .map(|(name, _)| name)
            .zip(found.flatten())
            .collect()
    }

    /// `x: [tokens, hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor, ModelError> {
        let attended = self.attention(&self.attention_norm.forward(x)?, pass)?;
        let x = x.f_add(&normed(attended, self.post_attention_norm.as_ref())?)?;
        let mlp = self.mlp(&self.mlp_norm.forward(&x)?, pass)?;
        Ok(x.f_add(&normed(mlp, self.post_mlp_norm.as_ref())?)?)
    }

    fn attention(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor, ModelError> {
        let config = pass.config;
        let merged = self
            .project(Projection::Qkv, x, pass)?
            .f_reshape([x.size()[0], -1, config.head_dim])?;
        let mut parts =
            merged.f_split_with_sizes([config.heads, config.kv_heads, config.kv_heads].as_slice(), 1)?;
        let (v, k, q) = (parts.remove(2), parts.remove(1), parts.remove(0));
        let rotation = &pass.rotations[config.rope_of_layer[self.number]];
        let q = rotation.apply(&normed(q, self.q_norm.as_ref())?)?;
        let k = rotation.apply(&normed(k, self.k_norm.as_ref())?)?;
        let shape = AttentionShape {
            window: config.windows[self.number],
            scale: config.attention_scale,
            softcap: config.attention_softcap,
        };
        let mixed = pass.attention.attend(self.number, shape, &q, &k, &v)?;
        self.project(Projection::Output, &mixed, pass)
    }

    /// `down(activation(gate(x)) * up(x))`.
    fn mlp(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor, ModelError> {
        let merged = self.project(Projection::GateUp, x, pass)?;
        let width = pass.config.intermediate_size;
        let (gate, up) = (merged.f_narrow(1, 0, width)?, merged.f_narrow(1, width, width)?);
        let gate = match pass.config.activation {
            Activation::Silu => gate.f_silu()?,
            Activation::GeluTanh => gate.f_gelu("tanh")?,
        };
        self.project(Projection::Down, &gate.f_mul(&up)?, pass)
    }

    /// The base layer and what the adapters add to it.
    fn project(&self, projection: Projection, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor, ModelError> {
        let y = self.projections[projection as usize].forward(x)?;
        pass.lora
            .add_to_projection(y, x, pass.config, self.number, projection)
    }
}

fn normed(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor, ModelError> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}
