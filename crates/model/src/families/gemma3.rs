//! Gemma 3, text: Gemma 2 with norms on the heads of q and k in place of the caps, and a rope of its own for the blocks
//! with a window, which are five of six.

use super::{Facts, Softcap, Windows, gemma2};

pub(super) const FACTS: Facts = Facts {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    qk_norm: true,
    attention_softcap: Softcap::Never,
    final_softcap: Softcap::Configured(None),
    windows: Windows::AllButEvery(6),
    theta: 1_000_000.0,
    local_theta: Some(10_000.0),
    ..gemma2::FACTS
};
