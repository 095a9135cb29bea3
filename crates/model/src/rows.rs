//! Steps on devices whose kernels read from a table which cache and which adapter each row has.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::{
    AdapterTable, FilledTable, LoraSite, ServedShape, StepRow, TablePair, attend_rows, lora_add_rows,
};

use crate::adapter::Adapter;
use crate::cache::FEW_TOKENS;
use crate::causal_lm::CausalLm;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Projection;
use crate::serving::attention_shape;
use crate::step::SequenceStep;

/// Most rows of a step whose adapters the kernels for single rows add: each row reads its adapter anew there.
pub(crate) const FEW_ROWS: usize = 64;

/// What the kernels must know of a model whose activations are `kind`.
pub(crate) fn served_shape(config: &ModelConfig, kind: Kind) -> ServedShape {
    let site = |module: &crate::modules::Module| LoraSite {
        inner: module.inputs,
        first_column: module.rows.start,
        columns: module.outputs(),
    };
    ServedShape {
        kind,
        layers: config.layers as i64,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        sites: (0..config.layers)
            .flat_map(|_| config.modules.iter().map(site))
            .collect(),
    }
}

/// A step's table in a pass.
#[derive(Debug)]
pub(crate) struct RowPass<'a> {
    table: &'a FilledTable<'a>,
    /// Room for the ranks of the rows' adapters; 0 where they are not added by row.
    ranks: i64,
    /// Room for the rows whose attention is by row.
    served: i64,
}

impl<'a> RowPass<'a> {
    /// With room for what the table has.
    pub(crate) fn new(table: &'a FilledTable<'a>) -> Self {
        Self {
            table,
            ranks: table.rank(),
            served: table.served(),
        }
    }

    /// With room for adapters of up to `ranks` and for all rows, whatever a later step has of them.
    pub(crate) fn recorded(table: &'a FilledTable<'a>, ranks: i64) -> Self {
        Self {
            table,
            ranks,
            served: table.rows(),
        }
    }

    /// Whether adapters are added by row.
    pub(crate) fn has_adapters(&self) -> bool {
        self.ranks > 0
    }

    pub(crate) fn attend(
        &self,
        layer: usize,
        config: &ModelConfig,
        qkv: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let shape = attention_shape(config, layer);
        Ok(attend_rows(self.table, layer as i64, self.served, qkv, shape)?)
    }

    /// Adds to the product `y` of `x` what each row's adapter adds.
    pub(crate) fn add(
        &self,
        config: &ModelConfig,
        layer: usize,
        projection: Projection,
        x: &Tensor,
        y: &Tensor,
    ) -> Result<(), ModelError> {
        let is_part = |module: &&crate::modules::Module| module.projection == projection;
        let first = config
            .modules
            .iter()
            .take_while(|module| !is_part(module))
            .count();
        let count = config.modules.iter().filter(is_part).count();
        // The modules of a product are neighbours.
        let start = layer * config.modules.len() + first;
        Ok(lora_add_rows(self.table, start..start + count, self.ranks, x, y)?)
    }
}

/// Whether the kernels for single rows add what these adapters add: those of the head and of the embedding are not in the
/// table.
pub(crate) fn adapters_fit(rows: usize, sequences: &[SequenceStep<'_>]) -> bool {
    let fits =
        |adapter: &Adapter| adapter.is_frozen() && adapter.head().is_none() && adapter.embedding().is_none();
    rows <= FEW_ROWS && sequences.iter().filter_map(|step| step.adapter).all(fits)
}

impl CausalLm {
    /// The rows of `sequences`, of which each begins at its place in `starts`. `with_adapters`: whether the kernels add them.
    pub(crate) fn step_rows<'a>(
        &self,
        sequences: &'a [SequenceStep<'_>],
        starts: &[i64],
        with_adapters: bool,
    ) -> Result<Vec<StepRow<'a>>, ModelError> {
        let mut rows = Vec::new();
        for (sequence, &start) in sequences.iter().zip(starts) {
            let length = (sequence.cache.len() + sequence.tokens.len()) as i64;
            let adapter = match sequence.adapter {
                Some(adapter) if with_adapters => Some(adapter.table(&self.served, self.device)?),
                _ => None,
            };
            let is_short = length - start <= FEW_TOKENS;
            let old = &sequence.cache.tokens()[start as usize..];
            let tokens = old.iter().chain(sequence.tokens);
            rows.extend(tokens.zip(start..).map(|(&token, position)| StepRow {
                token: i64::from(token),
                position,
                length,
                cache: is_short.then(|| sequence.cache.memory()),
                adapter,
            }));
        }
        Ok(rows)
    }
}

impl Adapter {
    /// The adapter as the kernels find it.
    fn table(&self, shape: &Arc<ServedShape>, device: Device) -> Result<&AdapterTable, ModelError> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let layers = shape.layers as usize;
        let modules = shape.sites.len() / layers.max(1);
        let pairs: Vec<_> = (0..layers)
            .flat_map(|layer| (0..modules).map(move |module| self.module(layer, module)))
            .map(|pair| {
                pair.map(|pair| TablePair {
                    a: &pair.a,
                    b: &pair.b,
                    scale: pair.scale,
                })
            })
            .collect();
        let table = AdapterTable::new(shape, &pairs, device)?;
        Ok(self.table.get_or_init(|| table))
    }
}
