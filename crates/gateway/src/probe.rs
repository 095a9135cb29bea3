//! Proof that a loaded adapter acts. A load that answers 200 and changes nothing is the commonest silent fault of
//! multi-LoRA servers, so a version is only routed to after its answers were seen to differ from the base model's.

use std::{fs, io, path::Path};

use crate::replica::{Fingerprint, ReplicaClient, ReplicaError};

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
            Self::NoAnswer { .. } | Self::NoEffect { .. } => true,
            Self::Weights { .. } => false,
        }
    }
}

/// Asks `name` and `base` the same and compares. `folder` holds the adapter's files.
pub(crate) async fn probe(
    replica: &ReplicaClient,
    base: &str,
    name: &str,
    folder: &Path,
) -> Result<(), ProbeError> {
    let mut differs = false;
    for prompt in PROMPTS {
        let tuned = answered(replica.fingerprint(name, prompt).await?, name)?;
        let plain = answered(replica.fingerprint(base, prompt).await?, base)?;
        differs |= tuned != plain;
        if differs {
            return Ok(());
        }
    }
    let weights = folder.join("adapter_model.safetensors");
    let path = weights.clone();
    let zero = tokio::task::spawn_blocking(move || acts_on_nothing(&path)).await;
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

fn answered(fingerprint: Fingerprint, name: &str) -> Result<Fingerprint, ProbeError> {
    let usable =
        !fingerprint.logprobs.is_empty() && fingerprint.logprobs.iter().all(|value| value.is_finite());
    if usable {
        Ok(fingerprint)
    } else {
        Err(ProbeError::NoAnswer {
            name: name.to_owned(),
        })
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
