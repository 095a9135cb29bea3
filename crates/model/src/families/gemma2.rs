//! Gemma 2: norms of `1 + w` on both sides, scaled embeddings, capped scores, every second block without a window.

use super::{Bias, Facts, Softcap, Windows, llama};
use crate::config::Activation;

pub(super) const FACTS: Facts = Facts {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    mlp_bias: Bias::Never,
    activation: ("hidden_activation", Activation::GeluTanh),
    norm_offset: 1.0,
    sandwich_norms: true,
    scaled_embedding: true,
    head_dim: Some(256),
    query_scalar: Some(256.0),
    attention_softcap: Softcap::Configured(Some(50.0)),
    final_softcap: Softcap::Configured(Some(30.0)),
    tied: true,
    windows: Windows::AllButEvery(2),
    ..llama::FACTS
};
