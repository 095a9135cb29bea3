//! Phi-3 and Phi-4-mini: fused q, k, v and gate, up; a part of each head is rotated; longrope.

use super::{Bias, Facts, Windows, llama};

pub(super) const FACTS: Facts = Facts {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    fused: true,
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::Uniform,
    partial_rotary: true,
    original_positions: Some(4096.0),
    longrope_alias: Some("su"),
    ..llama::FACTS
};
