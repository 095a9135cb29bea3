//! The families of models that can be trained, and how their blocks differ.

use serde::Deserialize;

/// A family, by what its configuration and its tensors look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    /// Llama 2, Llama 3 and what is built like them.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5: a bias on q, k and v.
    Qwen2,
    /// Qwen3: norms on queries and keys.
    Qwen3,
    /// Gemma 2: norms around the MLP.
    Gemma2,
    /// The text model of Gemma 3: norms around the MLP, and on queries and keys.
    #[serde(rename = "gemma3_text")]
    Gemma3,
    /// Phi-3 and Phi-4: q, k and v in one layer, gate and up in another.
    Phi3,
}

impl Family {
    pub(super) const ALL: [Self; 7] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
    ];

    /// The value of `model_type`.
    pub(super) const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
        }
    }

    /// The class in `architectures`.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// Width of a head where the configuration does not say; none is the share of the hidden size.
    pub(super) const fn head_dim(self) -> Option<u32> {
        match self {
            Self::Qwen3 => Some(128),
            Self::Gemma2 | Self::Gemma3 => Some(256),
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Phi3 => None,
        }
    }

    /// Whether the output head is the embedding where the configuration does not say.
    pub(super) const fn ties_embeddings(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Whether `attention_bias` means something.
    pub(super) const fn knows_attention_bias(self) -> bool {
        matches!(self, Self::Llama | Self::Qwen3 | Self::Gemma2 | Self::Gemma3)
    }

    /// Whether queries and keys are normed by head.
    pub(super) const fn norms_heads(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    /// Whether norms stand before and after the MLP.
    pub(super) const fn norms_feedforward(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}
