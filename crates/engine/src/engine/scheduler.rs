//! The engine thread's loop: take commands, admit jobs, run one forward pass over all sequences, pick their tokens.
//!
//! Every sequence that generates moves by one token in every step; those that still read their prompt share a budget,
//! so that a long prompt does not make the others wait. The sequences of one adapter stand together, so that the model
//! multiplies with it once.

mod room;

use std::{collections::VecDeque, panic::AssertUnwindSafe, panic::catch_unwind, sync::Arc, time::Instant};

use tch::Tensor;
use tokio::sync::mpsc;
use tunesmith_dataset::TextTokenizer;
use tunesmith_model::{Adapter, CausalLm, DecodeGraphs, ModelError, RopeScaling, RopeSettings, SequenceStep};

use super::{
    Command, EngineSettings,
    memory::{KvBudget, PrefixCache},
    merging::FastPath,
    sequence::{Outcome, Sequence},
};
use crate::{
    adapter::AdapterLease,
    metrics::{AdaptersInUse, Metrics},
    registry::AdapterRegistry,
};
use room::Waiting;

/// Most prompt tokens in one step, of all sequences together.
const PROMPT_BUDGET: usize = 512;

/// Most prompt tokens in one step behind each of which scores are wanted: a row of these has a number for every word of the
/// vocabulary, and is looked through on this thread.
const SCORED_BUDGET: usize = 64;

/// Rank up to which adapters find their steps recorded when the engine starts; others' are recorded when they come.
const USUAL_RANK: i64 = 16;

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
    // Before the model, whose memory the graphs use.
    graphs: DecodeGraphs,
    model: CausalLm,
    tokenizer: Arc<TextTokenizer>,
    metrics: Arc<Metrics>,
    registry: Arc<AdapterRegistry>,
    max_sequences: usize,
    budget: KvBudget,
    prefixes: PrefixCache,
    fast_path: FastPath,
    adapters: Vec<Resident>,
    waiting: VecDeque<Waiting>,
    active: Vec<Sequence>,
}

impl Scheduler {
    pub(super) fn new(
        model: CausalLm,
        tokenizer: Arc<TextTokenizer>,
        metrics: Arc<Metrics>,
        registry: Arc<AdapterRegistry>,
        budget: KvBudget,
        settings: &EngineSettings,
    ) -> Self {
        // The keys of a longrope model depend on how long its sequence became.
        let ropes = &model.config().ropes;
        let is_stable = |rope: &RopeSettings| !matches!(rope.scaling, RopeScaling::LongRope { .. });
        let prefixes = PrefixCache::new(budget, ropes.iter().all(is_stable));
        let (adapters, waiting, active) = (Vec::new(), VecDeque::new(), Vec::new());
        let graphs = if settings.has_cuda_graphs {
            DecodeGraphs::new(&model)
        } else {
            DecodeGraphs::off(&model)
        };
        Self {
            graphs,
            model,
            tokenizer,
            metrics,
            registry,
            max_sequences: settings.max_sequences,
            budget,
            prefixes,
            fast_path: FastPath::new(settings.merged_bytes),
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
            self.plan();
            self.report();
            self.step();
            self.collect();
        }
    }

    /// Makes the graphs that most steps need on a GPU.
    pub(super) fn record_ahead(&mut self) {
        let rows = self.max_sequences;
        if let Err(error) = self.graphs.record_ahead(&self.model, rows, USUAL_RANK) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "steps could not be recorded ahead"
            );
        }
        self.report_refusal();
    }

    fn report_refusal(&mut self) {
        if let Some(reason) = self.graphs.take_refusal() {
            tracing::error!(
                reason,
                "CUDA refused to record a step as a graph: each kernel is launched by itself from now on, and memory that \
                 runs short may not be given back; start the engine with --no-cuda-graphs"
            );
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self.waiting.push_back(Waiting::New(job, Instant::now())),
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
        let metrics = &self.metrics;
        let is_wanted = |sequence: &Sequence| {
            let is_wanted = !sequence.is_abandoned();
            if !is_wanted {
                count_end(metrics, sequence, "abort");
            }
            is_wanted
        };
        self.active.retain(is_wanted);
        self.waiting.retain(|waiting| match waiting {
            Waiting::New(job, _) => !job.events.is_closed(),
            Waiting::Paused(sequence) => is_wanted(sequence),
        });
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
                .filter_map(Waiting::adapter)
                .map(name)
                .collect(),
        };
        self.metrics
            .set_load(self.active.len(), self.waiting.len(), adapters);
        self.metrics
            .set_memory(self.budget.bytes, self.running_bytes(), self.prefixes.bytes());
    }

    /// Decides what each sequence reads in the next step, and sees to it that there is memory for that.
    fn plan(&mut self) {
        let (mut budget, mut scored) = (PROMPT_BUDGET, SCORED_BUDGET);
        // In the order of arrival, so that no prompt waits for ever.
        let mut order: Vec<&mut Sequence> = self.active.iter_mut().collect();
        order.sort_by_key(|sequence| sequence.began());
        for sequence in order {
            sequence.plan(&mut budget, &mut scored);
        }
        self.make_room();
    }

    /// One forward pass over all sequences. If it fails, each runs alone, so that only the one at fault fails.
    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let mut sequences = std::mem::take(&mut self.active);
        self.observe_traffic(&sequences);
        let outcomes = match self.forward(&mut sequences) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "step failed, trying one by one"
                );
                sequences
                    .iter_mut()
                    .map(|sequence| self.step_alone(sequence))
                    .collect()
            }
        };
        let mut ended = Vec::new();
        for (sequence, outcome) in sequences.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Running => self.active.push(sequence),
                Outcome::Finished(reason) => {
                    count_end(&self.metrics, &sequence, reason.as_str());
                    ended.push(sequence);
                }
                Outcome::Failed => count_end(&self.metrics, &sequence, "error"),
            }
        }
        let running = self.running_bytes();
        for sequence in ended {
            let (adapter, seen, cache) = sequence.into_memory();
            self.prefixes.keep(adapter.as_ref(), &seen, cache, running);
        }
    }

    fn step_alone(&mut self, sequence: &mut Sequence) -> Outcome {
        match self.forward(std::slice::from_mut(sequence)) {
            Ok(outcomes) => outcomes[0],
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "generation failed");
                sequence.fail(&error);
                Outcome::Failed
            }
        }
    }

    /// Runs the shares of `sequences`, and picks a token for each whose prompt is read.
    fn forward(&mut self, sequences: &mut [Sequence]) -> Result<Vec<Outcome>, StepError> {
        let merged = sole_adapter(sequences)
            .filter(|_| !sequences.iter().any(Sequence::has_seed))
            .and_then(|lease| self.fast_path.weights(lease, &self.model));
        self.metrics.step(merged.is_some());
        let mut steps: Vec<SequenceStep<'_>> = Vec::with_capacity(sequences.len());
        for sequence in sequences.iter_mut() {
            let adapter = sequence.adapter().map(|lease| resident(&self.adapters, lease));
            let all_scores = sequence.is_reporting();
            if let Some((tokens, cache)) = sequence.share() {
                steps.push(SequenceStep {
                    tokens,
                    cache,
                    adapter,
                    all_scores,
                });
            }
        }
        if steps.is_empty() {
            return Ok(vec![Outcome::Running; sequences.len()]);
        }
        let run = AssertUnwindSafe(|| match merged {
            Some(weights) => rows(&self.model.step_merged(&mut steps, weights)?),
            None => rows(&self.model.step_recorded(&mut self.graphs, &mut steps)?),
        });
        let logits = catch_unwind(run).map_err(|_| StepError::Panicked)??;
        self.report_refusal();
        let mut logits = logits.as_slice();
        let advance = |sequence: &mut Sequence| match sequence.rows() {
            0 => Outcome::Running,
            count => {
                let (rows, others) = logits.split_at(count);
                logits = others;
                sequence.advance(rows)
            }
        };
        Ok(sequences.iter_mut().map(advance).collect())
    }

    fn observe_traffic(&mut self, sequences: &[Sequence]) {
        let sole = sole_adapter(sequences).map(|lease| (lease, resident(&self.adapters, lease)));
        if let Err(error) = self.fast_path.observe(sole, &self.model) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no memory to merge an adapter"
            );
        }
    }

    /// Drops adapters whose only lease is ours: unloaded or evicted, and no request left on them.
    fn collect(&mut self) {
        self.registry.evict();
        self.adapters
            .retain(|resident| Arc::strong_count(&resident.lease) > 1);
        self.prefixes.collect();
        self.fast_path.collect();
    }
}

fn resident<'a>(adapters: &'a [Resident], lease: &Arc<AdapterLease>) -> &'a Adapter {
    let found = adapters
        .iter()
        .find(|resident| Arc::ptr_eq(&resident.lease, lease));
    &found.expect("invariant: a leased adapter is resident").adapter
}

/// The adapter that all of them are on, if it is one.
fn sole_adapter(sequences: &[Sequence]) -> Option<&Arc<AdapterLease>> {
    let first = sequences.first()?.adapter()?;
    let is_first = |lease: &Arc<AdapterLease>| Arc::ptr_eq(lease, first);
    sequences
        .iter()
        .all(|sequence| sequence.adapter().is_some_and(is_first))
        .then_some(first)
}

/// A tensor `[rows, vocabulary]` of float32 as rows on the CPU.
fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let size = logits.size();
    let flat: Vec<f32> = logits.f_contiguous()?.f_view([-1])?.try_into()?;
    let width = usize::try_from(size[1]).unwrap_or(1).max(1);
    Ok(flat.chunks(width).map(<[f32]>::to_vec).collect())
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
