//! Steps of single tokens, recorded as CUDA graphs.
//!
//! A model of a few layers leaves a GPU idle while the host launches its hundreds of kernels. Where every sequence has one
//! new token, the launches of a step depend only on the number of rows: what differs stands in the step's table. So the
//! pass is recorded once for a number of rows and an upper bound of the adapters' ranks, and replayed from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::gpu::{CudaGraph, GpuError, GraphMemory, empty_cuda_cache};
use tunesmith_torch_ext::kernels::{FilledTable, ServedShape, StepRow, StepTable};

use crate::cache::CachedSequences;
use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::lora::LoraPass;
use crate::rotation::Places;
use crate::rows::{FEW_ROWS, RowPass, adapters_fit};
use crate::serving::ServingPass;
use crate::step::SequenceStep;

/// The steps of one model that were recorded.
#[derive(Debug)]
pub struct DecodeGraphs {
    /// The model's own: whose graphs these are.
    served: Arc<ServedShape>,
    // Before what their graphs write to.
    steps: HashMap<StepSize, RecordedStep>,
    memory: Option<GraphMemory>,
    /// float32 `[FEW_ROWS, vocab]`: where all graphs leave their scores.
    scores: Option<Tensor>,
    /// Whether nothing is recorded, since nobody wants it or CUDA refused.
    is_off: bool,
    /// Why CUDA refused, until somebody asks.
    refusal: Option<String>,
}

/// What decides the launches of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StepSize {
    rows: usize,
    ranks: i64,
}

#[derive(Debug)]
struct RecordedStep {
    // Before the table that the graph reads.
    recording: Recording,
    table: StepTable,
}

#[derive(Debug)]
enum Recording {
    /// Not tried.
    None,
    Done(CudaGraph),
    /// There was no memory for it: its kernels are launched one by one.
    GivenUp,
}

/// A row of no sequence.
const PADDING: StepRow<'static> = StepRow {
    token: 0,
    position: 0,
    length: 1,
    cache: None,
    adapter: None,
};

impl StepSize {
    /// The smallest size on offer: padding costs less than a recording for each number of rows.
    fn of(rows: usize, ranks: i64) -> Self {
        let rows = match rows {
            0..=8 => rows.next_power_of_two(),
            _ => rows.next_multiple_of(8),
        };
        let ranks = match ranks {
            0 => 0,
            _ => (ranks.cast_unsigned().next_power_of_two().cast_signed()).max(16),
        };
        Self { rows, ranks }
    }
}

impl DecodeGraphs {
    /// None yet.
    #[must_use]
    pub fn new(model: &CausalLm) -> Self {
        Self {
            served: Arc::clone(&model.served),
            steps: HashMap::new(),
            memory: None,
            scores: None,
            is_off: false,
            refusal: None,
        }
    }

    /// None, for good.
    #[must_use]
    pub fn off(model: &CausalLm) -> Self {
        Self {
            is_off: true,
            ..Self::new(model)
        }
    }

    /// Records the steps of up to `most_rows` rows, without adapters and with those of the ranks up to `rank`'s size, so that no
    /// request waits for it. Where steps are not by graph it does nothing.
    ///
    /// # Errors
    /// There is no memory for a step.
    pub fn record_ahead(&mut self, model: &CausalLm, most_rows: usize, rank: i64) -> Result<(), ModelError> {
        if !model.has_row_kernels() {
            return Ok(());
        }
        let _guard = no_grad_guard();
        // The largest first: the others then find room in its memory.
        for rows in (1..=most_rows.min(FEW_ROWS)).rev() {
            for ranks in [rank, 0] {
                let size = StepSize::of(rows, ranks);
                if !self.is_off && !self.steps.contains_key(&size) {
                    let _ = self.run(model, size, &[PADDING])?;
                }
            }
        }
        if model.device.is_cuda() {
            // What the passes before the recordings took, on a stream where nothing else runs.
            empty_cuda_cache().map_err(GpuError::from)?;
        }
        Ok(())
    }

    /// How many sizes of steps there were.
    #[must_use]
    pub fn sizes(&self) -> usize {
        self.steps.len()
    }

    /// Why CUDA refused to record, once.
    pub fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// Scores behind `rows`, float32 `[size.rows, vocab]`, in a place that the next step writes to.
    fn run(&mut self, model: &CausalLm, size: StepSize, rows: &[StepRow<'_>]) -> Result<Tensor, ModelError> {
        let step = match self.steps.entry(size) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(RecordedStep {
                recording: Recording::None,
                table: StepTable::new(&model.served, size.rows, model.device)?,
            }),
        };
        let table = step.table.fill(rows)?;
        let scores = match &self.scores {
            Some(scores) => scores,
            None => self.scores.insert(model.room_for_scores()?),
        };
        let scores = scores.f_narrow(0, 0, size.rows as i64)?;
        if matches!(step.recording, Recording::None) && !self.is_off && model.device.is_cuda() {
            match record(&mut self.memory, model, &table, size, &scores) {
                Ok(graph) => step.recording = Recording::Done(graph),
                Err(error) if error.code() == "out_of_memory" => step.recording = Recording::GivenUp,
                Err(error) => (self.is_off, self.refusal) = (true, Some(error.to_string())),
            }
        }
        match &step.recording {
            Recording::Done(graph) => graph.replay()?,
            Recording::None | Recording::GivenUp => model.decode(&table, size.ranks, &scores)?,
        }
        Ok(scores)
    }
}

fn record(
    memory: &mut Option<GraphMemory>,
    model: &CausalLm,
    table: &FilledTable<'_>,
    size: StepSize,
    scores: &Tensor,
) -> Result<CudaGraph, ModelError> {
    let memory = match memory {
        Some(memory) => memory,
        None => memory.insert(GraphMemory::new(model.device)?),
    };
    let (graph, ()) = CudaGraph::record(memory, || model.decode(table, size.ranks, scores))?;
    Ok(graph)
}

impl CausalLm {
    /// [`Self::step`], by a recorded graph where every sequence has one new token and the device is CUDA's; numbers then
    /// differ from those of [`Self::step`] by rounding at most. The first step of a size is slow, since it is recorded.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_recorded(
        &self,
        graphs: &mut DecodeGraphs,
        sequences: &mut [SequenceStep<'_>],
    ) -> Result<Tensor, ModelError> {
        if !Arc::ptr_eq(&graphs.served, &self.served) {
            let problem = "the graphs are those of another model";
            return Err(ModelError::InvalidBatch(problem.to_owned()));
        }
        if !self.is_decode(sequences) {
            return self.step(sequences);
        }
        let _guard = no_grad_guard();
        for sequence in sequences.iter_mut() {
            self.check_token(sequence.tokens[0])?;
            sequence.cache.reserve(1)?;
        }
        let starts: Vec<i64> = sequences.iter().map(|step| step.cache.len() as i64).collect();
        let rank = sequences.iter().filter_map(|step| step.adapter);
        let rank = rank
            .flat_map(|adapter| adapter.pairs())
            .map(|pair| pair.rank)
            .max();
        let size = StepSize::of(sequences.len(), rank.unwrap_or(0));
        let rows = self.step_rows(sequences, &starts, true)?;
        let scores = graphs.run(self, size, &rows)?;
        // A copy, since the next replay writes to the same place.
        let scores = scores.f_narrow_copy(0, 0, sequences.len() as i64)?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens, false);
        }
        Ok(scores)
    }

    /// Whether a step's launches depend on the number of its rows alone.
    fn is_decode(&self, sequences: &[SequenceStep<'_>]) -> bool {
        let grows_by_one = |step: &SequenceStep<'_>| {
            let seen = step.cache.len();
            step.tokens.len() == 1 && !self.ropes.iter().any(|rope| rope.changes(seen, seen + 1))
        };
        !sequences.is_empty()
            && self.precision.weights == self.precision.compute
            && self.has_row_kernels()
            && adapters_fit(sequences.len(), sequences)
            && sequences.iter().all(grows_by_one)
    }

    /// Whether its device has kernels for single rows, by which steps of single tokens can be recorded.
    #[must_use]
    pub fn has_row_kernels(&self) -> bool {
        self.served.has_row_kernels(self.device)
    }

    fn room_for_scores(&self) -> Result<Tensor, ModelError> {
        let size = [FEW_ROWS as i64, self.config.vocab_size];
        Ok(Tensor::f_empty(size, (Kind::Float, self.device))?)
    }

    /// The pass over the rows of `table`, to `scores`: float32 `[rows, vocab]`.
    fn decode(&self, table: &FilledTable<'_>, ranks: i64, scores: &Tensor) -> Result<(), ModelError> {
        let (positions, lengths) = (table.positions()?, table.lengths()?);
        let places = Places {
            positions: &positions,
            lengths: &lengths,
        };
        let attention = CachedSequences {
            sequences: Vec::new(),
        };
        let rows = Some(RowPass::recorded(table, ranks));
        let x = self.embed(&table.tokens()?, &LoraPass::none())?;
        let hidden = ServingPass::new(self, places, attention, LoraPass::none(), rows, None)?.run(x)?;
        let found = self.serving_scores(&hidden, &LoraPass::none())?;
        Ok(scores.shallow_clone().f_copy_(&found)?)
    }
}
