//! The families of models that are built in: what each does differently from Llama, as data.
//!
//! One file per family. A family is a [`Facts`] table; the forward pass reads only the [`crate::ModelConfig`] that comes
//! of the table and a folder's `config.json`.

mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;

use crate::config::Activation;

/// A family of models, all of Llama's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, Llama 3 and what is built like them.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, the dense models.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, the text model.
    Gemma3,
    /// Phi-3, Phi-3.5 and Phi-4-mini.
    Phi3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
    ];

    pub(crate) const fn facts(self) -> &'static Facts {
        match self {
            Self::Llama => &llama::FACTS,
            Self::Mistral => &mistral::FACTS,
            Self::Qwen2 => &qwen2::FACTS,
            Self::Qwen3 => &qwen3::FACTS,
            Self::Gemma2 => &gemma2::FACTS,
            Self::Gemma3 => &gemma3::FACTS,
            Self::Phi3 => &phi3::FACTS,
        }
    }

    /// The class name in `architectures`.
    #[must_use]
    pub const fn architecture(self) -> &'static str {
        self.facts().architecture
    }

    /// The value of `model_type`.
    #[must_use]
    pub const fn model_type(self) -> &'static str {
        self.facts().model_type
    }
}

/// What there is to know about a family. Names in backquotes are fields of `config.json`.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The class in `architectures`.
    pub(crate) architecture: &'static str,
    /// `model_type`.
    pub(crate) model_type: &'static str,
    /// Whether q, k, v are one module `qkv_proj`, and gate and up one module `gate_up_proj`.
    pub(crate) fused: bool,
    pub(crate) qkv_bias: Bias,
    pub(crate) output_bias: Bias,
    pub(crate) mlp_bias: Bias,
    /// The field that names the activation, and what it is where the field is absent.
    pub(crate) activation: (&'static str, Activation),
    /// Added to the weight of every RMSNorm.
    pub(crate) norm_offset: f64,
    /// An RMSNorm over each head of q and k.
    pub(crate) qk_norm: bool,
    /// A second norm behind attention and MLP.
    pub(crate) sandwich_norms: bool,
    /// Whether embeddings are multiplied with the square root of `hidden_size`.
    pub(crate) scaled_embedding: bool,
    /// `head_dim` where it is absent; `None` is `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<i64>,
    /// Default of `query_pre_attn_scalar`; `None` where attention scales by the head's width.
    pub(crate) query_scalar: Option<f64>,
    pub(crate) attention_softcap: Softcap,
    pub(crate) final_softcap: Softcap,
    /// Default of `tie_word_embeddings`.
    pub(crate) tied: bool,
    pub(crate) windows: Windows,
    /// Default of `rope_theta`.
    pub(crate) theta: f64,
    /// Default of `rope_local_base_freq`, of the blocks with a window; `None` where all blocks share one rope.
    pub(crate) local_theta: Option<f64>,
    /// Whether `partial_rotary_factor` is heeded.
    pub(crate) partial_rotary: bool,
    /// Default of `original_max_position_embeddings` beside the rope's own fields.
    pub(crate) original_positions: Option<f64>,
    /// An older name of the rope type `longrope`.
    pub(crate) longrope_alias: Option<&'static str>,
}

/// Whether linear layers have a bias.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias {
    Never,
    Always,
    /// `attention_bias` or `mlp_bias` says.
    Configured,
}

/// Whether scores go through `cap · tanh(score / cap)`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Softcap {
    Never,
    /// The field says; where it is absent, this.
    Configured(Option<f64>),
}

/// Which blocks see only `sliding_window` tokens, where `layer_types` does not say it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Windows {
    /// None, whatever the file says.
    Never,
    /// All, and `layer_types` does not matter.
    Uniform,
    /// All.
    Everywhere,
    /// From `max_window_layers` on, if `use_sliding_window`.
    Switched,
    /// All but every n-th: n is `sliding_window_pattern`, else this.
    AllButEvery(usize),
}
