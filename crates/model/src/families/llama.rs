//! Llama 2 and 3: what the other families are compared with.

use super::{Bias, Facts, Softcap, Windows};
use crate::config::Activation;

pub(super) const FACTS: Facts = Facts {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    fused: false,
    qkv_bias: Bias::Configured,
    output_bias: Bias::Configured,
    mlp_bias: Bias::Configured,
    activation: ("hidden_act", Activation::Silu),
    norm_offset: 0.0,
    qk_norm: false,
    sandwich_norms: false,
    scaled_embedding: false,
    head_dim: None,
    query_scalar: None,
    attention_softcap: Softcap::Never,
    final_softcap: Softcap::Never,
    tied: false,
    windows: Windows::Never,
    theta: 10_000.0,
    local_theta: None,
    partial_rotary: false,
    original_positions: None,
    longrope_alias: None,
};
