//! The fake's model: what comes next follows from the prompt and from what the adapter's B matrix is filled with.

use serde_json::Value;
use tunesmith_types::probe::Probe;

/// How much likelier the fake's best token is than the next one.
pub(super) const LEAD: f64 = 2.5;

/// The token after `place` others, with the logarithm of its probability. The base model is filled with zeros.
pub(super) fn answer(fill: u8, prompt: &Value, place: usize) -> (u32, f64) {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in format!("{fill} {place} {prompt}").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let hash = hash ^ (hash >> 29);
    let token = u32::try_from(hash % 1000).unwrap();
    let logprob = -0.3 - f64::from(u32::try_from((hash >> 12) % 12).unwrap()) * 0.25;
    (token, logprob)
}

/// What a trainer records of an adapter with this filling.
pub(crate) fn recorded_probe(fill: u8, prompt: &[u32]) -> Probe {
    let value = serde_json::json!(prompt);
    let (completion, logprobs): (Vec<u32>, Vec<f64>) =
        (0..4).map(|place| answer(fill, &value, place)).unzip();
    let without = if fill == 0 { 0.0 } else { 3.0 };
    Probe {
        prompt: prompt.to_vec(),
        completion,
        base_logprobs: logprobs.iter().map(|value| value - without).collect(),
        logprobs,
    }
}
