//! Mistral: a sliding window, no bias.

use super::{Bias, Facts, Windows, llama};

pub(super) const FACTS: Facts = Facts {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::Everywhere,
    ..llama::FACTS
};
