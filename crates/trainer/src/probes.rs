//! Golden probes: what an adapter answers to a few prompts of its own data, so that serving can prove that the
//! adapter acts. `probes.json` beside a finished adapter and in each checkpoint; nothing that PEFT reads.

use std::path::Path;

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_dataset::corpus::{CorpusError, StoredSequence};
use tunesmith_dataset::{Corpus, Encoder};
use tunesmith_model::{Adapter, CausalLm, KvCache, SequenceStep};
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
    /// All prompts, with the adapter and without, go through the model together: that is a pass over the prompts and one
    /// for each further token, so that it costs little to do it with every checkpoint.
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn record(&self, base: &Base, adapter: &Adapter) -> Result<Vec<Probe>, TrainError> {
        let _guard = no_grad_guard();
        let adapter = adapter.frozen(base.device, base.kind)?;
        let longest = usize::try_from(base.model.config().max_positions).unwrap_or(usize::MAX);
        let fitting = self
            .prompts
            .iter()
            .filter(|prompt| prompt.len() + Probe::MOST_TOKENS <= longest);
        let mut recordings = fitting
            .map(|prompt| Recording::new(&base.model, prompt))
            .collect::<Result<Vec<_>, _>>()?;
        for _ in 0..Probe::MOST_TOKENS {
            self.continue_all(&base.model, &adapter, &mut recordings)?;
        }
        let probes = recordings.into_iter().map(|recording| recording.probe);
        Ok(probes.filter(is_whole).collect())
    }

    /// Adds to each answer that has not ended its likeliest next token.
    fn continue_all(
        &self,
        model: &CausalLm,
        adapter: &Adapter,
        recordings: &mut [Recording],
    ) -> Result<(), TrainError> {
        let mut open: Vec<&mut Recording> = recordings.iter_mut().filter(|one| !one.has_ended).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut steps = Vec::with_capacity(2 * open.len());
        for recording in &mut open {
            let Recording { unseen, caches, .. } = &mut **recording;
            for (cache, adapter) in caches.iter_mut().zip([Some(adapter), None]) {
                steps.push(SequenceStep {
                    tokens: &unseen[..],
                    cache,
                    adapter,
                    all_scores: false,
                });
            }
        }
        let scores = model.step(&mut steps)?.f_log_softmax(-1, Kind::Double)?;
        drop(steps);
        let likeliest = scores.f_argmax(-1, false)?;
        for (row, recording) in (0..).step_by(2).zip(open) {
            let token = u32::try_from(likeliest.f_int64_value(&[row])?).ok();
            match token.filter(|token| !self.ends.contains(token)) {
                Some(token) => recording.take(token, &scores, row)?,
                None => recording.has_ended = true,
            }
        }
        Ok(())
    }
}

fn is_whole(probe: &Probe) -> bool {
    let mut logprobs = probe.logprobs.iter().chain(&probe.base_logprobs);
    !probe.completion.is_empty() && logprobs.all(|value| value.is_finite())
}

/// A probe in the making.
struct Recording {
    probe: Probe,
    /// With the adapter, and without.
    caches: [KvCache; 2],
    /// What the caches have not seen.
    unseen: Vec<u32>,
    has_ended: bool,
}

impl Recording {
    fn new(model: &CausalLm, prompt: &[u32]) -> Result<Self, TrainError> {
        let cache = || model.new_cache(prompt.len() + Probe::MOST_TOKENS);
        Ok(Self {
            probe: Probe {
                prompt: prompt.to_vec(),
                completion: Vec::new(),
                logprobs: Vec::new(),
                base_logprobs: Vec::new(),
            },
            caches: [cache()?, cache()?],
            unseen: prompt.to_vec(),
            has_ended: false,
        })
    }

    /// `scores`: log-probabilities `[2 · recordings, vocab]`, of this one with the adapter in `row`, without in the next.
    fn take(&mut self, token: u32, scores: &Tensor, row: i64) -> Result<(), TrainError> {
        let logprob = |row| -> Result<f64, TrainError> {
            let value = scores.f_double_value(&[row, i64::from(token)])?;
            Ok((value * PRECISION).round() / PRECISION)
        };
        self.probe.logprobs.push(logprob(row)?);
        self.probe.base_logprobs.push(logprob(row + 1)?);
        self.probe.completion.push(token);
        self.unseen = vec![token];
        Ok(())
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
