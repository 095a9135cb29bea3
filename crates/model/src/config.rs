//! The shape of a model: everything that the forward pass depends on besides the weights.

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::families::Family;
use crate::modules::Module;
use crate::rope::RopeSettings;

/// What the gate of the MLP goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// The shape of a model: everything that the forward pass depends on besides the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding and of the output head.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// What the gate of the MLP goes through.
    pub activation: Activation,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Added to the weights of all RMSNorms: a norm multiplies with `norm_offset + weight`. If not 0, in float32.
    pub norm_offset: f64,
    /// Whether each head of q and k goes through an RMSNorm before it is rotated.
    pub qk_norm: bool,
    /// Whether what attention and MLP give goes through an RMSNorm of its own before it is added to the residual stream.
    pub sandwich_norms: bool,
    /// What embeddings are multiplied with, rounded to the compute format.
    pub embedding_scale: Option<f64>,
    /// What the products of queries and keys are multiplied with.
    pub attention_scale: f64,
    /// Attention scores become `cap · tanh(score / cap)` before the mask.
    pub attention_softcap: Option<f64>,
    /// Logits become `cap · tanh(logit / cap)`.
    pub final_softcap: Option<f64>,
    /// The rotary embeddings, at least one.
    pub ropes: Vec<RopeSettings>,
    /// Per block: its index into `ropes`.
    pub rope_of_layer: Vec<usize>,
    /// Longest sequence that the model was made for, in tokens.
    pub max_positions: i64,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output has a bias.
    pub output_bias: bool,
    /// Whether the three layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Per block: how many tokens back it sees, itself included; `None` is all.
    pub windows: Vec<Option<i64>>,
    /// The linear modules of a block, in the order of a forward pass.
    pub modules: Vec<Module>,
    /// Standard deviation of freshly made weights.
    pub initializer_range: f64,
    /// The whole file as it was read, so that a saved model keeps what does not matter here (token ids and the like).
    pub source: Map<String, Value>,
}

impl ModelConfig {
    /// The sizes are known; what is computed from them must not overflow or divide by zero.
    pub(crate) fn check_sizes(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers as i64),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        // Far above any real model, far below what would overflow a product of two.
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 30).contains(size)) {
            return invalid(format!("`{name}` is {size}, which is no size"));
        }
        if self.layers > 1024 {
            return invalid(format!("`num_hidden_layers` is {}, over 1024", self.layers));
        }
        if self.heads % self.kv_heads != 0 {
            return invalid(format!(
                "{} query heads cannot share {} key and value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if self.head_dim % 2 != 0 {
            return invalid(format!("`head_dim` is {}, which is odd", self.head_dim));
        }
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), ModelError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let numbers = [
            ("rms_norm_eps", Some(self.rms_norm_eps)),
            ("query_pre_attn_scalar", Some(self.attention_scale)),
            ("attn_logit_softcapping", self.attention_softcap),
            ("final_logit_softcapping", self.final_softcap),
        ];
        match numbers
            .into_iter()
            .find(|(_, number)| number.is_some_and(|number| !positive(number)))
        {
            Some((name, _)) => invalid(format!("`{name}` must be positive")),
            None => Ok(()),
        }
    }
}

fn invalid<T>(what: String) -> Result<T, ModelError> {
    Err(ModelError::InvalidConfig(what))
}
