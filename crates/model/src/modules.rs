//! Where an adapter can sit: the linear modules of a block by PEFT's names, the output head and the embedding.

use std::ops::Range;

use crate::config::ModelConfig;

/// The four matrix products of a block. In memory each has one weight, whatever modules it is made of in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Queries, then keys, then values.
    Qkv,
    /// What attention gives back to the residual stream.
    Output,
    /// Gate, then up.
    GateUp,
    /// What the MLP gives back to the residual stream.
    Down,
}

impl Projection {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// In the order of a forward pass.
    pub const ALL: [Self; Self::COUNT] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// `(out, in)` of its weight.
    #[must_use]
    pub fn shape(self, config: &ModelConfig) -> (i64, i64) {
        let heads = config.heads * config.head_dim;
        match self {
            Self::Qkv => (heads + 2 * config.kv_heads * config.head_dim, config.hidden_size),
            Self::Output => (config.hidden_size, heads),
            Self::GateUp => (2 * config.intermediate_size, config.hidden_size),
            Self::Down => (config.hidden_size, config.intermediate_size),
        }
    }

    /// Whether it has a bias.
    #[must_use]
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Qkv => config.qkv_bias,
            Self::Output => config.output_bias,
            Self::GateUp | Self::Down => config.mlp_bias,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Qkv => "self_attn.qkv",
            Self::Output => "self_attn.output",
            Self::GateUp => "mlp.gate_up",
            Self::Down => "mlp.down",
        }
    }
}

/// A linear module of a block, as files and PEFT know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path in the block, such as `self_attn.q_proj`.
    pub path: &'static str,
    /// The product that it is, or is a part of.
    pub projection: Projection,
    /// Its rows in the product's output.
    pub rows: Range<i64>,
    /// Width of its input.
    pub inputs: i64,
}

impl Module {
    /// Width of its output.
    #[must_use]
    pub fn outputs(&self) -> i64 {
        self.rows.end - self.rows.start
    }

    /// The modules of a block, in the order of a forward pass.
    pub(crate) fn of_block(config: &ModelConfig, fused: bool) -> Vec<Self> {
        let (heads, groups) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let inner = config.intermediate_size;
        let parts: Vec<(&'static str, Projection, Range<i64>)> = if fused {
            vec![
                ("self_attn.qkv_proj", Projection::Qkv, 0..heads + 2 * groups),
                ("self_attn.o_proj", Projection::Output, 0..config.hidden_size),
                ("mlp.gate_up_proj", Projection::GateUp, 0..2 * inner),
                ("mlp.down_proj", Projection::Down, 0..config.hidden_size),
            ]
        } else {
            vec![
                ("self_attn.q_proj", Projection::Qkv, 0..heads),
                ("self_attn.k_proj", Projection::Qkv, heads..heads + groups),
                (
                    "self_attn.v_proj",
                    Projection::Qkv,
                    heads + groups..heads + 2 * groups,
                ),
                ("self_attn.o_proj", Projection::Output, 0..config.hidden_size),
                ("mlp.gate_proj", Projection::GateUp, 0..inner),
                ("mlp.up_proj", Projection::GateUp, inner..2 * inner),
                ("mlp.down_proj", Projection::Down, 0..config.hidden_size),
            ]
        };
        parts
            .into_iter()
            .map(|(path, projection, rows)| Self {
                path,
                projection,
                rows,
                inputs: projection.shape(config).1,
            })
            .collect()
    }
}

/// A place for a pair of LoRA matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// The embedding.
    Embedding,
    /// A linear module of a block.
    Block {
        /// Number of the block.
        layer: usize,
        /// Index into [`ModelConfig::modules`].
        module: usize,
    },
    /// The output head.
    Head,
}

/// More than any family has modules in a block.
const MODULE_STRIDE: usize = 16;

impl Site {
    /// Every site of a model, in the order of a forward pass.
    #[must_use]
    pub fn all(config: &ModelConfig) -> Vec<Self> {
        let modules = config.modules.len();
        let blocks = (0..config.layers)
            .flat_map(|layer| (0..modules).map(move |module| Self::Block { layer, module }));
        std::iter::once(Self::Embedding)
            .chain(blocks)
            .chain([Self::Head])
            .collect()
    }

    /// Its name in the model, as PEFT matches it: `model.layers.0.self_attn.q_proj`.
    #[must_use]
    pub fn name(self, config: &ModelConfig) -> String {
        match self {
            Self::Embedding => "model.embed_tokens".to_owned(),
            Self::Block { layer, module } => format!("model.layers.{layer}.{}", config.modules[module].path),
            Self::Head => "lm_head".to_owned(),
        }
    }

    /// `(out, in)`: `B` is `[out, rank]`, `A` is `[rank, in]`. An embedding's input is a token, so `in` is the vocabulary.
    #[must_use]
    pub fn shape(self, config: &ModelConfig) -> (i64, i64) {
        match self {
            Self::Embedding => (config.hidden_size, config.vocab_size),
            Self::Block { module, .. } => {
                let module = &config.modules[module];
                (module.outputs(), module.inputs)
            }
            Self::Head => (config.vocab_size, config.hidden_size),
        }
    }

    /// A number of its own within a model, whatever the model; it chooses the dropout mask.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Block { layer, module } => (layer * MODULE_STRIDE + module) as u64,
            Self::Head => 1 << 32,
            Self::Embedding => (1 << 32) + 1,
        }
    }
}
