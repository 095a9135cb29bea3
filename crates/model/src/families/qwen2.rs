//! Qwen2 and Qwen2.5: a bias on q, k and v, and a window that can be switched on.

use super::{Bias, Facts, Windows, llama};

pub(super) const FACTS: Facts = Facts {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::Switched,
    ..llama::FACTS
};
