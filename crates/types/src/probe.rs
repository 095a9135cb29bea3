//! What an adapter answers to golden prompts, recorded when it is trained, so that serving can prove that it acts.

use serde::{Deserialize, Serialize};

/// A prompt, the likeliest continuation with the adapter, and how likely it is with and without it.
///
/// Kept under `probes` in a version's manifest. Computed in the format that the adapter was trained in; a replica that
/// computes in another agrees within rounding, not in every digit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// The likeliest tokens with the adapter, one after the other (greedy); at most [`Probe::MOST_TOKENS`].
    pub completion: Vec<u32>,
    /// Natural logarithm of the probability of each of them with the adapter.
    pub logprobs: Vec<f64>,
    /// The same tokens' with the base model alone.
    pub base_logprobs: Vec<f64>,
}

impl Probe {
    /// Longest continuation.
    pub const MOST_TOKENS: usize = 8;
    /// Name of the list in a version's manifest.
    pub const FIELD: &'static str = "probes";
    /// The file with the list that a trainer leaves beside the adapter.
    pub const FILE: &'static str = "probes.json";
    /// Most probes of a version.
    pub const MOST: usize = 16;
}
