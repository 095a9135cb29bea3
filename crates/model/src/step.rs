//! The forward pass of inference.

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::kernels::{StepTable, serving_linear};

use crate::adapter::Adapter;
use crate::cache::{CachedSequence, CachedSequences, KvCache};
use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::lora::LoraPass;
use crate::merged::MergedWeights;
use crate::rotation::Places;
use crate::rows::{RowPass, adapters_fit};
use crate::serving::ServingPass;

/// New tokens of one sequence in one inference pass.
#[derive(Debug)]
pub struct SequenceStep<'a> {
    /// The whole prompt, or a part of it, or the one token that was sampled last.
    pub tokens: &'a [u32],
    /// What the sequence has seen so far.
    pub cache: &'a mut KvCache,
    /// The adapter, in the model's compute format ([`Adapter::frozen`]); the same one for all steps of a cache.
    pub adapter: Option<&'a Adapter>,
    /// Whether scores are wanted behind every new token, and not only behind the last.
    pub all_scores: bool,
}

impl SequenceStep<'_> {
    /// Tokens of the sequence after this pass.
    fn length(&self) -> usize {
        self.cache.len() + self.tokens.len()
    }

    /// Rows of scores that it gets.
    fn scored(&self) -> i64 {
        if self.all_scores {
            self.tokens.len() as i64
        } else {
            1
        }
    }
}

/// Rows of one inference pass, int64.
struct StepLayout {
    tokens: Tensor,
    positions: Tensor,
    /// Of each token's sequence, with the new tokens.
    lengths: Tensor,
    /// The rows whose scores are wanted.
    scored_rows: Tensor,
    /// Each sequence's first place in this pass.
    starts: Vec<i64>,
}

impl StepLayout {
    fn rows(&self) -> usize {
        self.tokens.numel()
    }
}

impl CausalLm {
    /// An empty cache for one sequence, with room for `capacity` tokens; it grows when more come.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, ModelError> {
        KvCache::new(&self.config, capacity, self.device, self.precision.compute)
    }

    /// Inference's forward pass: reads each sequence's new tokens and returns the scores of what follows its last one, or
    /// each of them, float32 `[rows, vocab]`. Prompts and single tokens, with and without adapters, may be mixed.
    ///
    /// On an error no cache has changed, save that of a longrope sequence which was just outgrowing its short
    /// frequencies: it is of no more use.
    ///
    /// # Errors
    /// There is no sequence, one has no new tokens, a token is outside the vocabulary, or LibTorch refused.
    pub fn step(&self, sequences: &mut [SequenceStep<'_>]) -> Result<Tensor, ModelError> {
        self.step_on(sequences, None)
    }

    /// [`Self::step`] of sequences that are all on the adapter which is folded into `merged`. Numbers differ from those of
    /// [`Self::step`] by rounding, and the caches are marked for that.
    ///
    /// # Errors
    /// As [`Self::step`]; or the sequences are on different adapters.
    pub fn step_merged(
        &self,
        sequences: &mut [SequenceStep<'_>],
        merged: &MergedWeights,
    ) -> Result<Tensor, ModelError> {
        let adapter = |step: &SequenceStep<'_>| step.adapter.map(std::ptr::from_ref);
        let first = sequences.first().and_then(adapter);
        if first.is_none() || sequences.iter().any(|step| adapter(step) != first) {
            let problem = "merged weights are for sequences on one adapter";
            return Err(ModelError::InvalidBatch(problem.to_owned()));
        }
        self.step_on(sequences, Some(merged))
    }

    fn step_on(
        &self,
        sequences: &mut [SequenceStep<'_>],
        merged: Option<&MergedWeights>,
    ) -> Result<Tensor, ModelError> {
        let _guard = no_grad_guard();
        let layout = self.lay_out(sequences)?;
        let parts = || sequences.iter().zip(&layout.starts);
        let lora =
            LoraPass::by_rows(parts().map(|(part, &start)| (part.length() as i64 - start, part.adapter)));
        let mut attention = CachedSequences {
            sequences: parts()
                .map(|(part, &start)| CachedSequence {
                    start,
                    tokens: part.length() as i64 - start,
                    cache: &*part.cache,
                })
                .collect(),
        };
        let places = Places {
            positions: &layout.positions,
            lengths: &layout.lengths,
        };
        let hidden = if self.precision.weights == self.precision.compute {
            let x = self.embed(&layout.tokens, &lora)?;
            let with_adapters = merged.is_none() && adapters_fit(layout.rows(), sequences);
            let mut table = self.step_table(&layout)?;
            let rows = |_: &_| self.step_rows(sequences, &layout.starts, with_adapters);
            let rows = table.as_ref().map(rows).transpose()?.unwrap_or_default();
            let filled = table.as_mut().map(|table| table.fill(&rows)).transpose()?;
            let by_row = filled.as_ref().map(RowPass::new);
            ServingPass::new(self, places, attention, lora, by_row, merged)?.run(x)?
        } else {
            let mut pass = self.pass(places, &mut attention, lora)?;
            self.final_norm
                .forward(&self.run_blocks(&layout.tokens, &mut pass)?)?
        };
        let scored = hidden.f_index_select(0, &layout.scored_rows)?;
        let head = LoraPass::by_rows(sequences.iter().map(|part| (part.scored(), part.adapter)));
        let logits = self.serving_scores(&scored, &head)?.f_to_kind(Kind::Float)?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens, merged.is_some());
        }
        Ok(logits)
    }

    /// Room for what the rows belong to, where the device has kernels that read it.
    fn step_table(&self, layout: &StepLayout) -> Result<Option<StepTable>, ModelError> {
        let table = self
            .has_row_kernels()
            .then(|| StepTable::new(&self.served, layout.rows(), self.device));
        Ok(table.transpose()?)
    }

    /// Lays the new tokens end to end, and makes room for them in the caches. A sequence that outgrows the short
    /// frequencies of its rope is read anew from its first token, like transformers does it.
    fn lay_out(&self, sequences: &mut [SequenceStep<'_>]) -> Result<StepLayout, ModelError> {
        let (mut tokens, mut positions, mut lengths) = (vec![], vec![], vec![]);
        let (mut scored_rows, mut starts) = (vec![], vec![]);
        for sequence in sequences {
            let Some(&largest) = sequence.tokens.iter().max() else {
                return Err(ModelError::InvalidBatch(
                    "a sequence has no new tokens".to_owned(),
                ));
            };
            self.check_token(largest)?;
            sequence.cache.reserve(sequence.tokens.len() as i64)?;
            let (seen, length) = (sequence.cache.len(), sequence.length());
            let is_read_anew = self.ropes.iter().any(|rope| rope.changes(seen, length));
            let start = if is_read_anew { 0 } else { seen };
            let old = &sequence.cache.tokens()[start..];
            tokens.extend(old.iter().chain(sequence.tokens).map(|&token| i64::from(token)));
            positions.extend(start as i64..length as i64);
            lengths.extend((start..length).map(|_| length as i64));
            let rows = tokens.len() as i64;
            scored_rows.extend(rows - sequence.scored()..rows);
            starts.push(start as i64);
        }
        if tokens.is_empty() {
            return Err(ModelError::InvalidBatch("no sequences".to_owned()));
        }
        let on_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        Ok(StepLayout {
            tokens: on_device(&tokens)?,
            positions: on_device(&positions)?,
            lengths: on_device(&lengths)?,
            scored_rows: on_device(&scored_rows)?,
            starts,
        })
    }

    /// `hidden: [rows, hidden]`, packed.
    pub(crate) fn serving_scores(&self, hidden: &Tensor, lora: &LoraPass<'_>) -> Result<Tensor, ModelError> {
        let head = self.head_weight().f_to_kind(self.precision.compute)?;
        let logits = lora.serve_head(serving_linear(hidden, &head, None)?, hidden)?;
        self.capped(logits)
    }
}
