//! Proof that a loaded adapter acts. A load that answers 200 and changes nothing is the commonest silent fault of
//! multi-LoRA servers, so a version is only routed to after it gave the answers that were recorded when it was trained,
//! or, where none were recorded, after its answers were seen to differ from the base model's.

use std::{fs, io, path::Path};

use serde_json::{Value, json};
use tunesmith_types::probe::Probe;

use crate::{
    golden::{self, Comparison},
    replica::{Continuation, ReplicaClient, ReplicaError},
};

/// Short and general, so that any tokenizer has them.
const PROMPTS: [&str; 2] = ["The answer to the question is", "1. "];

/// Why a version does not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The replica does not answer, or refuses.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// An answer without tokens or with numbers that are none.
    #[error("`{name}` answered the probe without usable log-probabilities")]
    NoAnswer { name: String },
    /// The adapter was loaded, but the model is still the base model.
    #[error(
        "`{name}` answers exactly as the base model does, although its weights are not zero: it was loaded but does not act"
    )]
    NoEffect { name: String },
    /// The adapter acts, but not as it did when it was trained.
    #[error(
        "`{name}` does not answer as it did when it was trained: token {} of golden prompt {} has the log-probability \
         {measured:.3}, recorded was {recorded:.3}",
        place + 1, prompt + 1
    )]
    Differs {
        name: String,
        prompt: usize,
        place: usize,
        recorded: f64,
        measured: f64,
    },
    /// The staged weights cannot be read.
    #[error("the weights of `{name}` cannot be read")]
    Weights {
        name: String,
        #[source]
        source: io::Error,
    },
}

impl ProbeError {
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Replica(error) => error.is_permanent(),
            Self::NoAnswer { .. } | Self::NoEffect { .. } | Self::Differs { .. } => true,
            Self::Weights { .. } => false,
        }
    }
}

/// Asks `name` what its `manifest` has golden answers to. `folder` holds the adapter's files.
pub(crate) async fn probe(
    replica: &ReplicaClient,
    base: &str,
    name: &str,
    manifest: &Value,
    folder: &Path,
) -> Result<(), ProbeError> {
    let probes = recorded(manifest, name);
    if probes.is_empty() {
        return differs_from_base(replica, base, name, folder).await;
    }
    for (place, probe) in probes.iter().enumerate() {
        check(replica, base, name, place, probe).await?;
    }
    Ok(())
}

/// The golden answers in a manifest. Versions of before golden answers were recorded have none.
fn recorded(manifest: &Value, name: &str) -> Vec<Probe> {
    let probes = match manifest.get(Probe::FIELD) {
        None | Some(Value::Null) => return Vec::new(),
        Some(probes) => serde_json::from_value::<Vec<Probe>>(probes.clone()),
    };
    let mut probes = probes.unwrap_or_else(|error| {
        tracing::warn!(%name, %error, "a manifest has probes that cannot be read");
        Vec::new()
    });
    probes.retain(|probe| !probe.prompt.is_empty() && !probe.completion.is_empty());
    probes
}

async fn check(
    replica: &ReplicaClient,
    base: &str,
    name: &str,
    place: usize,
    probe: &Probe,
) -> Result<(), ProbeError> {
    let (prompt, length) = (json!(probe.prompt), probe.completion.len());
    let answer = replica.continuation(name, &prompt, length).await?;
    let (token, recorded, measured) = match golden::compare(probe, &answer) {
        Comparison::Agrees => return Ok(()),
        Comparison::Unusable => return Err(unusable(name)),
        Comparison::Differs {
            place,
            recorded,
            measured,
        } => (place, recorded, measured),
    };
    // Where the recorded numbers set adapter and base apart, the base's own answer says which fault it is.
    if golden::is_telling(probe) && answer == replica.continuation(base, &prompt, length).await? {
        return Err(ProbeError::NoEffect {
            name: name.to_owned(),
        });
    }
    Err(ProbeError::Differs {
        name: name.to_owned(),
        prompt: place,
        place: token,
        recorded,
        measured,
    })
}

/// Asks `name` and `base` the same and compares.
async fn differs_from_base(
    replica: &ReplicaClient,
    base: &str,
    name: &str,
    folder: &Path,
) -> Result<(), ProbeError> {
    for prompt in PROMPTS {
        let prompt = json!(prompt);
        let tuned = replica.continuation(name, &prompt, Probe::MOST_TOKENS).await?;
        let plain = replica.continuation(base, &prompt, Probe::MOST_TOKENS).await?;
        if answered(tuned, name)? != answered(plain, base)? {
            return Ok(());
        }
    }
    let weights = folder.join("adapter_model.safetensors");
    let zero = tokio::task::spawn_blocking(move || acts_on_nothing(&weights)).await;
    let zero = zero.expect("invariant: reading weights does not panic");
    match zero {
        Ok(true) => Ok(()),
        Ok(false) => Err(ProbeError::NoEffect {
            name: name.to_owned(),
        }),
        Err(source) => Err(ProbeError::Weights {
            name: name.to_owned(),
            source,
        }),
    }
}

fn answered(answer: Continuation, name: &str) -> Result<Continuation, ProbeError> {
    let usable = !answer.logprobs.is_empty() && answer.logprobs.iter().all(|value| value.is_finite());
    if usable { Ok(answer) } else { Err(unusable(name)) }
}

fn unusable(name: &str) -> ProbeError {
    ProbeError::NoAnswer {
        name: name.to_owned(),
    }
}

/// Whether every B matrix is zero, as before the first step of training: such an adapter rightly changes nothing.
fn acts_on_nothing(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(tensors
        .iter()
        .filter(|(name, _)| name.contains("lora_B"))
        .all(|(_, tensor)| tensor.data().iter().all(|byte| *byte == 0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    #[test]
    fn probes_that_cannot_be_used_are_left_out() {
        let probe = json!({"prompt": [1], "completion": [2], "logprobs": [-0.1], "base_logprobs": [-0.2]});
        let empty = json!({"prompt": [1], "completion": [], "logprobs": [], "base_logprobs": []});
        assert_eq!(recorded(&json!({"probes": [probe, empty]}), "x").len(), 1);
        for manifest in [json!({}), json!({"probes": null}), json!({"probes": "none"})] {
            assert!(recorded(&manifest, "x").is_empty(), "{manifest}");
        }
    }

    #[test]
    fn only_the_b_matrices_decide_whether_an_adapter_acts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_model.safetensors");
        for (last, expected) in [(0u8, true), (1, false)] {
            let (a, b) = ([7u8; 8], [0, 0, 0, last]);
            let tensors = [
                (
                    "l.lora_A.weight",
                    TensorView::new(Dtype::F32, vec![1, 2], &a).unwrap(),
                ),
                (
                    "l.lora_B.weight",
                    TensorView::new(Dtype::F32, vec![1, 1], &b).unwrap(),
                ),
            ];
            safetensors::serialize_to_file(tensors, None, &path).unwrap();
            assert_eq!(acts_on_nothing(&path).unwrap(), expected);
        }
    }
}
