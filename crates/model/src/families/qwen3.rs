//! Qwen3: norms on the heads of q and k.

use super::{Bias, Facts, Windows, llama};

pub(super) const FACTS: Facts = Facts {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    mlp_bias: Bias::Never,
    qk_norm: true,
    head_dim: Some(128),
    windows: Windows::Switched,
    ..llama::FACTS
};
