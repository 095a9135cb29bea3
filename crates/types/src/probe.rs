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
    /// Longest file; sixteen probes of some 70 tokens have 40 KiB.
    pub const MOST_BYTES: u64 = 256 * 1024;

    /// Reads the content of a [`Probe::FILE`].
    ///
    /// # Errors
    /// It is too long or no list of probes, or a probe contradicts itself.
    pub fn parse_list(text: &[u8]) -> Result<Vec<Self>, ProbeListError> {
        if text.len() as u64 > Self::MOST_BYTES {
            return Err(ProbeListError::Wrong("a file that is too long"));
        }
        let probes: Vec<Self> = serde_json::from_slice(text)?;
        match probes.iter().find_map(Self::problem) {
            _ if probes.len() > Self::MOST => Err(ProbeListError::Wrong("a list that is too long")),
            Some(problem) => Err(ProbeListError::Wrong(problem)),
            None => Ok(probes),
        }
    }

    fn problem(&self) -> Option<&'static str> {
        let length = self.completion.len();
        if self.prompt.is_empty() || length == 0 || length > Self::MOST_TOKENS {
            return Some("a probe without a prompt, or with a completion of another length than 1 to 8");
        }
        if self.logprobs.len() != length || self.base_logprobs.len() != length {
            return Some("a probe with more or fewer log-probabilities than tokens");
        }
        let mut logprobs = self.logprobs.iter().chain(&self.base_logprobs);
        logprobs
            .any(|value| !value.is_finite() || *value > 0.0)
            .then_some("a log-probability above zero")
    }
}

/// Why probes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeListError {
    /// Another form.
    #[error("the file is not a list of probes")]
    Json(#[from] serde_json::Error),
    /// Numbers that cannot be.
    #[error("there is {0}")]
    Wrong(&'static str),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn probe() -> Probe {
        Probe {
            prompt: vec![1, 2],
            completion: vec![3, 4],
            logprobs: vec![-0.5, -0.25],
            base_logprobs: vec![-2.0, -3.0],
        }
    }

    #[test]
    fn only_whole_probes_are_taken() {
        let parse = |probes: &[Probe]| Probe::parse_list(&serde_json::to_vec(probes).unwrap());
        assert_eq!(parse(&[probe(), probe()]).unwrap(), [probe(), probe()]);
        assert!(matches!(Probe::parse_list(b"{}"), Err(ProbeListError::Json(_))));
        let spoilt: [fn(&mut Probe); 5] = [
            |probe| probe.prompt.clear(),
            |probe| probe.completion.clear(),
            |probe| probe.logprobs.truncate(1),
            |probe| probe.base_logprobs.push(-1.0),
            |probe| probe.logprobs[0] = 0.5,
        ];
        for spoil in spoilt {
            let mut probe = probe();
            spoil(&mut probe);
            assert!(matches!(parse(&[probe]), Err(ProbeListError::Wrong(_))));
        }
        let many = vec![probe(); Probe::MOST + 1];
        assert!(matches!(parse(&many), Err(ProbeListError::Wrong(_))));
        let long = vec![b' '; Probe::MOST_BYTES as usize + 1];
        assert!(matches!(Probe::parse_list(&long), Err(ProbeListError::Wrong(_))));
    }
}
