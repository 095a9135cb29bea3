//! Steps of single tokens, recorded as CUDA graphs.
//!
//! A model of a few layers leaves a GPU idle while the host launches its hundreds of kernels. Where every sequence has one
//! new token, the launches of a step depend only on the number of rows: what differs stands in the step's table. So the
//! pass is recorded once for a number of rows and an upper bound of the adapters' ranks, and replayed from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::gpu::{CudaGraph, GraphMemory};
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
    steps: HashMap<StepSize, RecordedStep>,
    memory: Option<GraphMemory>,
    /// Whether CUDA refused to record; then nothing is tried again.
    is_refused: bool,
    /// Why, until somebody asks.
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
    /// float32 `[rows, vocab]`, as the last replay left them; gone before the table that the graph reads.
    recording: Option<(CudaGraph, Tensor)>,
    table: StepTable,
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
            is_refused: false,
            refusal: None,
        }
    }

    /// Records the steps of up to `most_rows` rows, without adapters and with those of the ranks up to `rank`'s size, so that no
    /// request waits for it. Where steps are not by graph it does nothing.
    ///
    /// # Errors
    /// There is no memory for a step.
    pub fn record_ahead(&mut self, model: &CausalLm, most_rows: usize, rank: i64) -> Result<(), ModelError> {
        if !model.served.has_row_kernels(model.device) {
            return Ok(());
        }
        let _guard = no_grad_guard();
        // The largest first: the others then find room in its memory.
        for rows in (1..=most_rows.min(FEW_ROWS)).rev() {
            for ranks in [rank, 0] {
                let size = StepSize::of(rows, ranks);
                if !self.steps.contains_key(&size) {
                    let _ = self.run(model, size, &[PADDING])?;
                }
            }
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

    /// Scores behind `rows`, float32 `[size.rows, vocab]`, in a place that the next step of the size writes to.
    fn run(&mut self, model: &CausalLm, size: StepSize, rows: &[StepRow<'_>]) -> Result<Tensor, ModelError> {
        let step = match self.steps.entry(size) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(RecordedStep {
                recording: None,
                table: StepTable::new(&model.served, size.rows, model.device)?,
            }),
        };
        let table = step.table.fill(rows)?;
        if step.recording.is_none() && !self.is_refused && model.device != Device::Cpu {
            match record(&mut self.memory, model, &table, size) {
                Ok(recording) => step.recording = Some(recording),
                Err(error) => (self.is_refused, self.refusal) = (true, Some(error.to_string())),
            }
        }
        match &step.recording {
            Some((graph, scores)) => {
                graph.replay()?;
                Ok(scores.shallow_clone())
            }
            None => model.decode(&table, size.ranks),
        }
    }
}

fn record(
    memory: &mut Option<GraphMemory>,
    model: &CausalLm,
    table: &FilledTable<'_>,
    size: StepSize,
) -> Result<(CudaGraph, Tensor), ModelError> {
    let memory = match memory {
        Some(memory) => memory,
        None => memory.insert(GraphMemory::new(model.device)?),
    };
    CudaGraph::record(memory, || model.decode(table, size.ranks))
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
            && self.served.has_row_kernels(self.device)
            && adapters_fit(sequences.len(), sequences)
            && sequences.iter().all(grows_by_one)
    }

    /// The pass over the rows of `table`: scores, float32 `[rows, vocab]`.
    fn decode(&self, table: &FilledTable<'_>, ranks: i64) -> Result<Tensor, ModelError> {
        let (positions, lengths) = (table.positions()?, table.lengths()?);
        let places = Places {
            positions: &positions,
            lengths: &lengths,
        };
        let attention = CachedSequences {
            sequences: Vec::new(),
        };
        let rows = Some(RowPass::with_room(table, ranks));
        let x = self.embed(&table.tokens()?, &LoraPass::none())?;
        let hidden = ServingPass::new(self, places, attention, LoraPass::none(), rows, None)?.run(x)?;
        Ok(self
            .serving_scores(&hidden, &LoraPass::none())?
            .f_to_kind(Kind::Float)?)
    }
}
