//! Golden probes: what a finished adapter answers to a few prompts of its own data, so that serving can prove that the
//! adapter acts. `probes.json` beside the adapter; nothing that PEFT reads.

use std::path::Path;

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_dataset::corpus::{CorpusError, StoredSequence};
use tunesmith_dataset::{Corpus, Encoder};
use tunesmith_model::{Adapter, CausalLm, SequenceStep};
use tunesmith_types::probe::Probe;

use crate::base::Base;
use crate::error::TrainError;

/// A general prompt, for an adapter whose own prompts are not asked about.
pub(crate) const GENERIC: &str = "The answer to the question is";
/// Prompts from the training data.
const OWN_PROMPTS: usize = 3;
/// Longest prompt; of a longer one the end is kept, where a chat template asks for the answer.
const MOST_PROMPT_TOKENS: usize = 64;
/// Examples that are looked at for prompts.
const MOST_EXAMPLES: usize = 64;
/// Log-probabilities are kept to this part of one.
const PRECISION: f64 = 1e6;

/// What probes are made of: a pure function of data and tokenizer.
#[derive(Debug, Clone, Default)]
pub struct ProbePrompts {
    /// Token ids, each different.
    prompts: Vec<Vec<u32>>,
    /// Ids that end a generation; they are in no completion.
    ends: Vec<u32>,
}

impl ProbePrompts {
    /// The prompts of the first of the training examples `train`, and a general one.
    ///
    /// # Errors
    /// The corpus has lost its tokens.
    pub fn choose(
        corpus: &Corpus,
        train: &[usize],
        encoder: &Encoder,
        vocabulary: i64,
    ) -> Result<Self, CorpusError> {
        let mut chosen = Self {
            prompts: Vec::new(),
            ends: encoder.tokenizer().special().eos_ids.clone(),
        };
        let mut first: Vec<usize> = train.to_vec();
        first.sort_unstable();
        for place in first.into_iter().take(MOST_EXAMPLES) {
            if chosen.prompts.len() == OWN_PROMPTS {
                break;
            }
            chosen.add(prompt_of(&corpus.sequence(place)?));
        }
        // A tokenizer that cannot encode it has no general prompt.
        let generic = encoder.tokenizer().encode(GENERIC, true);
        let generic = generic.map(|encoded| encoded.ids).unwrap_or_default();
        if generic.iter().all(|token| i64::from(*token) < vocabulary) {
            chosen.add(generic);
        }
        Ok(chosen)
    }

    fn add(&mut self, mut prompt: Vec<u32>) {
        prompt.drain(..prompt.len().saturating_sub(MOST_PROMPT_TOKENS));
        if !prompt.is_empty() && !self.prompts.contains(&prompt) {
            self.prompts.push(prompt);
        }
    }

    /// What `adapter` answers. A prompt that it answers with silence, or with numbers that are not finite, has no probe.
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn record(&self, base: &Base, adapter: &Adapter) -> Result<Vec<Probe>, TrainError> {
        let _guard = no_grad_guard();
        let adapter = adapter.frozen(base.device, base.kind)?;
        let longest = usize::try_from(base.model.config().max_positions).unwrap_or(usize::MAX);
        let mut probes = Vec::new();
        for prompt in &self.prompts {
            if prompt.len() + Probe::MOST_TOKENS > longest {
                continue;
            }
            let likeliest = Continuation::Likeliest { ends: &self.ends };
            let (completion, logprobs) = continue_with(&base.model, Some(&adapter), prompt, &likeliest)?;
            let given = Continuation::Given(&completion);
            let (_, base_logprobs) = continue_with(&base.model, None, prompt, &given)?;
            let are_finite = logprobs
                .iter()
                .chain(&base_logprobs)
                .all(|value| value.is_finite());
            if are_finite && !completion.is_empty() {
                probes.push(Probe {
                    prompt: prompt.clone(),
                    completion,
                    logprobs,
                    base_logprobs,
                });
            }
        }
        Ok(probes)
    }
}

/// Writes `probes.json` into `folder`.
///
/// # Errors
/// The file cannot be written.
pub fn write_probes(folder: &Path, probes: &[Probe]) -> Result<(), TrainError> {
    let path = folder.join(Probe::FILE);
    let text =
        serde_json::to_string_pretty(probes).map_err(|error| TrainError::Internal(error.to_string()))?;
    std::fs::write(&path, format!("{text}\n")).map_err(TrainError::output(&path))
}

/// What is not learnt of an example; of one that is learnt as a whole, such as text, its first half.
fn prompt_of(example: &StoredSequence<'_>) -> Vec<u32> {
    let leading = example.supervised().take_while(|is_learnt| !is_learnt).count();
    let length = if leading < 2 { example.len() / 2 } else { leading };
    example.tokens().take(length).collect()
}

/// Which tokens follow a prompt.
enum Continuation<'a> {
    /// The likeliest, until one that ends a generation.
    Likeliest { ends: &'a [u32] },
    /// These.
    Given(&'a [u32]),
}

/// The tokens behind `prompt`, and the natural logarithm of the probability of each.
fn continue_with(
    model: &CausalLm,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    continuation: &Continuation<'_>,
) -> Result<(Vec<u32>, Vec<f64>), TrainError> {
    let mut cache = model.new_cache(prompt.len() + Probe::MOST_TOKENS)?;
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    let mut unseen = prompt.to_vec();
    while tokens.len() < Probe::MOST_TOKENS {
        let step = SequenceStep {
            tokens: &unseen,
            cache: &mut cache,
            adapter,
        };
        let scores = model.step(&mut [step])?.f_log_softmax(-1, Kind::Double)?;
        let token = match continuation {
            Continuation::Likeliest { ends } => likeliest(&scores)?.filter(|token| !ends.contains(token)),
            Continuation::Given(given) => given.get(tokens.len()).copied(),
        };
        let Some(token) = token else { break };
        let logprob = scores.f_double_value(&[0, i64::from(token)])?;
        logprobs.push((logprob * PRECISION).round() / PRECISION);
        tokens.push(token);
        unseen = vec![token];
    }
    Ok((tokens, logprobs))
}

/// `scores`: `[1, vocab]`.
fn likeliest(scores: &Tensor) -> Result<Option<u32>, TrainError> {
    let token = scores.f_argmax(-1, false)?.f_int64_value(&[0])?;
    Ok(u32::try_from(token).ok())
}
