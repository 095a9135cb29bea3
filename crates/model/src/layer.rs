//! One transformer block: attention and MLP, each behind an RMSNorm and around a residual.

use crate::modules::LinearLayer;
use tch::Tensor;

use crate::attention::Attend;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::linear::Linear;
use crate::lora::LoraPass;
use crate::norm::RmsNorm;
use crate::rope::Rotation;
use crate::weights::Weights;

/// What all blocks of one forward pass share.
pub(crate) struct Pass<'a> {
    pub(crate) rotation: Rotation,
    pub(crate) attention: &'a mut dyn Attend,
    pub(crate) lora: LoraPass<'a>,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
pub(crate) struct Block {
    number: usize,
    head_dim: i64,
    window: Option<i64>,
    pub(crate) attention_norm: RmsNorm,
    pub(crate) mlp_norm: RmsNorm,
    /// In the order of [`LinearLayer::ALL`].
    pub(crate) linears: [Linear; 7],
}

impl Block {
    pub(crate) fn take(weights: &mut Weights, config: &ModelConfig, number: usize) -> Self {
        let mut norm = |name: &str| {
            let weight = weights.take(&format!("model.layers.{number}.{name}.weight"));
            RmsNorm::new(weight, config.rms_norm_eps)
        };
        let (attention_norm, mlp_norm) = (norm("input_layernorm"), norm("post_attention_layernorm"));
        Self {
            number,
            head_dim: config.head_dim,
            window: config.windows[number],
            attention_norm,
            mlp_norm,
            linears: LinearLayer::ALL.map(|linear| Linear::take(weights, config, number, linear)),
        }
    }

    /// `x: [tokens, hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor, ModelError> {
        let x = x.f_add(&self.attention(&self.attention_norm.forward(x)?, pass)?)?;
        Ok(x.f_add(&self.mlp(&self.mlp_norm.forward(&x)?, pass)?)?)
    }

    fn attention(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor, ModelError> {
        let heads = |y: Tensor| y.f_reshape([x.size()[0], -1, self.head_dim]);
        let q = heads(self.linear(LinearLayer::QProj, x, pass)?)?;
        let k = heads(self.linear(LinearLayer::KProj, x, pass)?)?;
        let v = heads(self.linear(LinearLayer::VProj, x, pass)?)?;
        let (q, k) = (pass.rotation.apply(&q)?, pass.rotation.apply(&k)?);
        let mixed = pass.attention.attend(self.number, self.window, &q, &k, &v)?;
        self.linear(LinearLayer::OProj, &mixed, pass)
    }

    /// `down(silu(gate(x)) * up(x))`.
    fn mlp(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor, ModelError> {
        let gate = self.linear(LinearLayer::GateProj, x, pass)?;
        let up = self.linear(LinearLayer::UpProj, x, pass)?;
        self.linear(LinearLayer::DownProj, &gate.f_silu()?.f_mul(&up)?, pass)
    }

    /// The base layer and what the adapters add to it.
    fn linear(&self, linear: LinearLayer, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor, ModelError> {
        let y = self.linears[linear as usize].forward(x)?;
        pass.lora.add_to(y, x, self.number, linear)
    }
}
