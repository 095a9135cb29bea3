//! The patches of a pass: of every block, of the head and of the embedding.

use std::collections::HashMap;

use tch::Tensor;

use super::grouped::JobRows;
use super::layout::{Layout, Rows};
use super::patch::{Adapted, Matrices, Patch};
use super::product::ProductPatches;
use crate::causal_lm::CausalLm;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::{Projection, Site};
use crate::training::Segment;

/// The patches of a pass.
#[derive(Debug)]
pub(super) struct Patches {
    /// Per block, per product in the order of [`Projection::ALL`].
    blocks: Vec<[ProductPatches; 4]>,
    head: Vec<Patch>,
    embedding: Vec<Patch>,
}

impl Patches {
    /// `grouped`: make the products of all jobs at once where they allow it.
    pub(super) fn new(
        model: &CausalLm,
        segments: &[Segment<'_>],
        layout: &Layout,
        backward: bool,
        grouped: bool,
    ) -> Result<Self, ModelError> {
        let config = model.config();
        let mut patches = Self {
            blocks: (0..config.layers).map(|_| Default::default()).collect(),
            head: Vec::new(),
            embedding: Vec::new(),
        };
        for (number, segment) in segments.iter().enumerate() {
            let (tokens, scored) = (layout.segments[number], layout.scored[number]);
            if tokens.count > 0 {
                patches.add(model, segment, tokens, scored, layout.prunes_last_block, backward)?;
            }
        }
        if grouped {
            patches.group(layout, model)?;
        }
        Ok(patches)
    }

    fn group(&mut self, layout: &Layout, model: &CausalLm) -> Result<(), ModelError> {
        let tokens = JobRows::new(&layout.segments, model.device())?;
        let scored = JobRows::new(&layout.scored, model.device())?;
        for (layer, products) in self.blocks.iter_mut().enumerate() {
            for (product, patches) in products.iter_mut().enumerate() {
                let rows = if is_pruned(model.config(), layout.prunes_last_block, layer, product) {
                    &scored
                } else {
                    &tokens
                };
                if let Some(rows) = rows {
                    patches.group(rows)?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        model: &CausalLm,
        segment: &Segment<'_>,
        tokens: Rows,
        scored: Rows,
        prunes: bool,
        backward: bool,
    ) -> Result<(), ModelError> {
        let Some(adapter) = segment.adapter else {
            return Ok(());
        };
        let config = model.config();
        let gradient = segment.gradient.filter(|_| backward);
        let compute = adapter.flat().f_to_kind(model.precision().compute)?;
        let (mut next_a, mut next_b) = (0, adapter.size_of_a());
        let mut by_block: HashMap<(usize, usize), Vec<Adapted>> = HashMap::new();
        for pair in adapter.pairs() {
            let matrices = Matrices::take(pair, &compute, gradient, &mut next_a, &mut next_b)?;
            let site = pair.site;
            match site {
                Site::Block { layer, module } => by_block
                    .entry((layer, config.modules[module].projection as usize))
                    .or_default()
                    .push(Adapted {
                        module,
                        site,
                        matrices,
                    }),
                Site::Head => {
                    let mask = segment.mask(site);
                    self.head
                        .push(Patch::single(scored, 0, config.vocab_size, matrices, mask));
                }
                Site::Embedding => {
                    self.embedding
                        .push(Patch::single(tokens, 0, config.hidden_size, matrices, None));
                }
            }
        }
        for ((layer, product), modules) in by_block {
            let rows = if is_pruned(config, prunes, layer, product) {
                scored
            } else {
                tokens
            };
            if rows.count > 0 {
                let patches = Patch::of_modules(config, segment, rows, modules, gradient.is_some())?;
                self.blocks[layer][product].push(patches);
            }
        }
        Ok(())
    }

    pub(super) fn of_block(&self, number: usize) -> &[ProductPatches; 4] {
        &self.blocks[number]
    }

    pub(super) fn head(&self) -> &[Patch] {
        &self.head
    }

    pub(super) fn has_embedding(&self) -> bool {
        !self.embedding.is_empty()
    }

    /// The lowest block that the backward pass must reach; none where only the head is adapted.
    pub(super) fn lowest_block(&self) -> Option<usize> {
        if self.has_embedding() {
            return Some(0);
        }
        self.blocks
            .iter()
            .position(|products| products.iter().any(|patches| !patches.is_empty()))
    }

    /// What the embedding's adapters add to `x: [tokens, hidden]`, in place.
    pub(super) fn embed(&self, model: &CausalLm, layout: &Layout, x: &Tensor) -> Result<(), ModelError> {
        let scale = model.config().embedding_scale.unwrap_or(1.0);
        self.embedding
            .iter()
            .try_for_each(|patch| patch.embed(layout, x, scale))
    }

    /// Adds to the gradients of the embedding's adapters; `dx: [tokens, hidden]` is the gradient of the embeddings.
    pub(super) fn embed_backward(
        &self,
        model: &CausalLm,
        layout: &Layout,
        dx: &Tensor,
    ) -> Result<(), ModelError> {
        let scale = model.config().embedding_scale.unwrap_or(1.0);
        self.embedding
            .iter()
            .try_for_each(|patch| patch.embed_backward(layout, dx, scale))
    }
}

/// Whether a product takes the scored rows alone: behind the last block's attention, where that is `prunes`.
fn is_pruned(config: &ModelConfig, prunes: bool, layer: usize, product: usize) -> bool {
    prunes && layer + 1 == config.layers && product != Projection::Qkv as usize
}
