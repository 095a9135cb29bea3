//! The engine thread's loop: take commands, admit jobs, run one forward pass over all sequences, pick their tokens.
//!
//! Every sequence moves in every step: by one token, or by a part of its prompt. Prompts are cut so that a long one
//! does not make the others wait. The sequences of one adapter stand together, so that the model multiplies with it
//! once.

use std::{collections::VecDeque, panic::AssertUnwindSafe, panic::catch_unwind, sync::Arc, time::Instant};

use tch::Tensor;
use tokio::sync::mpsc;
use tunesmith_dataset::TextTokenizer;
use tunesmith_model::{Adapter, CausalLm, ModelError, SequenceStep};

use super::{
    Command,
    sequence::{Outcome, Sequence},
};
use crate::{
    adapter::AdapterLease,
    generation::{Event, FinishReason, Job},
    metrics::{AdaptersInUse, Metrics},
};

/// Most prompt tokens that one sequence runs in one step.
const PROMPT_PART: usize = 512;

/// Why a step gave no logits.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the model's code panicked")]
    Panicked,
}

/// An adapter's tensors, kept while somebody besides this list holds the lease.
struct Resident {
    lease: Arc<AdapterLease>,
    adapter: Adapter,
}

/// State of the thread.
pub(super) struct Scheduler {
    model: CausalLm,
    tokenizer: Arc<TextTokenizer>,
    metrics: Arc<Metrics>,
    max_sequences: usize,
    adapters: Vec<Resident>,
    waiting: VecDeque<(Job, Instant)>,
    active: Vec<Sequence>,
}

impl Scheduler {
    pub(super) fn new(
        model: CausalLm,
        tokenizer: Arc<TextTokenizer>,
        metrics: Arc<Metrics>,
        max_sequences: usize,
    ) -> Self {
        let (adapters, waiting, active) = (Vec::new(), VecDeque::new(), Vec::new());
        Self {
            model,
            tokenizer,
            metrics,
            max_sequences,
            adapters,
            waiting,
            active,
        }
    }

    /// Runs until the handle is gone and all jobs are done.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() {
                self.report();
                let Some(command) = inbox.blocking_recv() else {
                    return;
                };
                self.obey(command);
            }
            while let Ok(command) = inbox.try_recv() {
                self.obey(command);
            }
            self.drop_abandoned();
            self.admit();
            self.report();
            self.step();
            self.collect();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self.waiting.push_back((*job, Instant::now())),
            Command::Keep(lease, adapter, kept) => {
                self.adapters.push(Resident {
                    lease,
                    adapter: *adapter,
                });
                let _ = kept.send(());
            }
            // The loop collects in every turn.
            Command::Collect => {}
        }
    }

    /// Frees what nobody waits for any more.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|(job, _)| !job.events.is_closed());
        let metrics = &self.metrics;
        self.active.retain(|sequence| {
            let wanted = !sequence.is_abandoned();
            if !wanted {
                count_end(metrics, sequence, "abort");
            }
            wanted
        });
    }

    fn admit(&mut self) {
        while self.active.len() < self.max_sequences {
            let Some((job, began)) = self.waiting.pop_front() else {
                break;
            };
            match self.model.new_cache(job.generation.prompt.len() + 1) {
                Ok(cache) => self
                    .active
                    .push(Sequence::new(job, cache, &self.tokenizer, began)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "no memory for a sequence"
                    );
                    let _ = job.events.try_send(Event::Failed(error.to_string()));
                }
            }
        }
        self.active
            .sort_by_key(|sequence| sequence.adapter().map(Arc::as_ptr));
    }

    fn report(&self) {
        let name = |lease: &Arc<AdapterLease>| lease.name.clone();
        let adapters = AdaptersInUse {
            running: self
                .active
                .iter()
                .filter_map(Sequence::adapter)
                .map(name)
                .collect(),
            waiting: self
                .waiting
                .iter()
                .filter_map(|(job, _)| job.generation.adapter.as_ref())
                .map(name)
                .collect(),
        };
        self.metrics
            .set_load(self.active.len(), self.waiting.len(), adapters);
    }

    /// One token, or one part of the prompt, for every sequence. If the pass over all fails, each runs alone, so that
    /// only the one at fault fails.
    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let mut sequences = std::mem::take(&mut self.active);
        let outcomes = match self.forward(&mut sequences) {
            Ok(logits) => advance(&mut sequences, &logits),
            Err(error) if sequences.len() > 1 => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "step failed, trying one by one"
                );
                sequences
                    .iter_mut()
                    .flat_map(|sequence| self.step_alone(std::slice::from_mut(sequence)))
                    .collect()
            }
            Err(error) => vec![failed(&sequences[0], &error)],
        };
        for (sequence, outcome) in sequences.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Running => self.active.push(sequence),
                Outcome::Finished(FinishReason::Stop) => count_end(&self.metrics, &sequence, "stop"),
                Outcome::Finished(FinishReason::Length) => count_end(&self.metrics, &sequence, "length"),
                Outcome::Failed => count_end(&self.metrics, &sequence, "error"),
            }
        }
    }

    fn step_alone(&self, sequence: &mut [Sequence]) -> Vec<Outcome> {
        match self.forward(sequence) {
            Ok(logits) => advance(sequence, &logits),
            Err(error) => vec![failed(&sequence[0], &error)],
        }
    }

    /// Logits, float32, one row of `[vocabulary]` for each sequence.
    fn forward(&self, sequences: &mut [Sequence]) -> Result<Vec<Vec<f32>>, StepError> {
        let mut steps: Vec<SequenceStep<'_>> = sequences
            .iter_mut()
            .map(|sequence| {
                let adapter = sequence.adapter().map(|lease| self.resident(lease));
                let (tokens, cache) = sequence.next(PROMPT_PART);
                SequenceStep {
                    tokens,
                    cache,
                    adapter,
                }
            })
            .collect();
        let run = AssertUnwindSafe(|| -> Result<Vec<Vec<f32>>, ModelError> {
            let logits = self.model.step(&mut steps)?;
            rows(&logits)
        });
        Ok(catch_unwind(run).map_err(|_| StepError::Panicked)??)
    }

    fn resident(&self, lease: &Arc<AdapterLease>) -> &Adapter {
        let found = self
            .adapters
            .iter()
            .find(|resident| Arc::ptr_eq(&resident.lease, lease));
        &found.expect("invariant: a leased adapter is resident").adapter
    }

    /// Drops adapters whose only lease is ours: unloaded, and no request left on them.
    fn collect(&mut self) {
        self.adapters
            .retain(|resident| Arc::strong_count(&resident.lease) > 1);
    }
}

/// A tensor `[rows, vocabulary]` of float32 as rows on the CPU.
fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let size = logits.size();
    let flat: Vec<f32> = logits.f_contiguous()?.f_view([-1])?.try_into()?;
    let width = usize::try_from(size[1]).unwrap_or(1).max(1);
    Ok(flat.chunks(width).map(<[f32]>::to_vec).collect())
}

fn advance(sequences: &mut [Sequence], logits: &[Vec<f32>]) -> Vec<Outcome> {
    sequences
        .iter_mut()
        .zip(logits)
        .map(|(sequence, row)| {
            let seen = sequence.next(PROMPT_PART).0.len();
            sequence.advance(seen, row)
        })
        .collect()
}

fn failed(sequence: &Sequence, error: &StepError) -> Outcome {
    tracing::error!(error = error as &dyn std::error::Error, "generation failed");
    sequence.fail(error);
    Outcome::Failed
}

fn count_end(metrics: &Metrics, sequence: &Sequence, reason: &'static str) {
    let adapter = sequence.adapter().map(|lease| lease.name.as_str());
    if let Some(first) = sequence.first_token_at() {
        metrics.first_token(first.duration_since(sequence.began()));
    }
    let took = sequence.began().elapsed();
    metrics.ended(
        adapter,
        reason,
        sequence.prompt_tokens(),
        sequence.generated(),
        took,
    );
}
