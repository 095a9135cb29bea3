//! Keys and values of the tokens that a sequence has seen.

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::{CachedRows, attend_cached};

use crate::attention::{Attend, AttentionShape, causal_attention};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::rows::RowPass;
use crate::serving::attention_shape;

/// Capacity grows in steps of this many tokens.
const BLOCK: i64 = 64;

/// Longest run of new tokens of one sequence that the kernels for single rows take on a GPU; longer ones go to LibTorch's
/// attention, which shares what it reads among them.
pub(crate) const FEW_TOKENS: i64 = 16;

/// The memory of one sequence.
///
/// It belongs to the model, the adapter and the tokens with which it was filled.
#[derive(Debug)]
pub struct KvCache {
    /// `[layers, 2, kv_heads, capacity, head_dim]`, keys before values.
    memory: Tensor,
    /// Views of it.
    layers: Vec<LayerCache>,
    /// What was seen, for a rope that must turn old keys anew.
    tokens: Vec<u32>,
    length: i64,
    capacity: i64,
    is_merged: bool,
}

#[derive(Debug)]
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

/// `[kv_heads, capacity, head_dim]` each.
fn layers_of(memory: &Tensor) -> Result<Vec<LayerCache>, ModelError> {
    (0..memory.size()[0])
        .map(|layer| {
            let both = memory.f_select(0, layer)?;
            Ok(LayerCache {
                keys: both.f_select(0, 0)?,
                values: both.f_select(0, 1)?,
            })
        })
        .collect()
}

impl KvCache {
    /// An empty cache with room for `capacity` tokens; it grows when more come.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn new(
        config: &ModelConfig,
        capacity: usize,
        device: Device,
        kind: Kind,
    ) -> Result<Self, ModelError> {
        let capacity = round_up(capacity as i64);
        let size = [
            config.layers as i64,
            2,
            config.kv_heads,
            capacity,
            config.head_dim,
        ];
        let memory = Tensor::f_empty(size, (kind, device))?;
        Ok(Self {
            layers: layers_of(&memory)?,
            memory,
            tokens: Vec::new(),
            length: 0,
            capacity,
            is_merged: false,
        })
    }

    /// Tokens seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether no token has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens for which there is room without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes that keys and values of one token take.
    #[must_use]
    pub fn bytes_per_token(config: &ModelConfig, kind: Kind) -> usize {
        let values = 2 * config.layers as i64 * config.kv_heads * config.head_dim;
        values as usize * kind.elt_size_in_bytes()
    }

    /// A copy of the first `tokens` tokens, with room for `capacity`: what another sequence that begins alike, on the
    /// same adapter, need not compute again.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn prefix(&self, tokens: usize, capacity: usize) -> Result<Self, ModelError> {
        let length = self.length.min(tokens as i64);
        let capacity = round_up(length.max(capacity as i64));
        let memory = self.resized(length, capacity)?;
        Ok(Self {
            layers: layers_of(&memory)?,
            memory,
            tokens: self.tokens[..length as usize].to_vec(),
            length,
            capacity,
            is_merged: self.is_merged,
        })
    }

    /// Whether merged weights computed some of it ([`crate::CausalLm::step_merged`]), which rounds otherwise.
    #[must_use]
    pub fn is_merged(&self) -> bool {
        self.is_merged
    }

    /// Makes room for `capacity` tokens in all; less than there is changes nothing.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn grow(&mut self, capacity: usize) -> Result<(), ModelError> {
        let capacity = round_up(capacity as i64);
        if capacity > self.capacity {
            let memory = self.resized(self.length, capacity)?;
            self.layers = layers_of(&memory)?;
            self.memory = memory;
            self.capacity = capacity;
        }
        Ok(())
    }

    /// A copy of the memory of the first `length` tokens, with room for `capacity`.
    fn resized(&self, length: i64, capacity: i64) -> Result<Tensor, ModelError> {
        let mut size = self.memory.size();
        size[3] = capacity;
        let memory = Tensor::f_empty(&size, (self.memory.f_kind()?, self.memory.device()))?;
        memory
            .f_narrow(3, 0, length)?
            .f_copy_(&self.memory.f_narrow(3, 0, length)?)?;
        Ok(memory)
    }

    /// Forgets all tokens and gives up the memory; it is good for nothing but [`Self::len`] then.
    pub fn clear(&mut self) {
        self.layers.clear();
        self.memory = Tensor::new();
        self.tokens.clear();
        self.length = 0;
        self.capacity = 0;
    }

    /// Forgets all tokens from the `length`-th on; more than there are is no change.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length as i64);
        self.tokens.truncate(length);
    }

    /// `[layers, 2, kv_heads, capacity, head_dim]`, keys before values.
    pub(crate) fn memory(&self) -> &Tensor {
        &self.memory
    }

    /// The tokens seen.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Counts `tokens` as seen, once every layer has stored them; `on_merged`: computed by merged weights.
    pub(crate) fn advance(&mut self, tokens: &[u32], on_merged: bool) {
        self.is_merged |= on_merged;
        self.length += tokens.len() as i64;
        self.tokens.extend(tokens);
    }

    /// Makes room for `tokens` more, doubling so that growth costs little in sum.
    pub(crate) fn reserve(&mut self, tokens: i64) -> Result<(), ModelError> {
        let needed = self.length + tokens;
        if needed <= self.capacity {
            return Ok(());
        }
        self.grow(needed.max(self.capacity * 2) as usize)
    }

    /// Stores `k` and `v: [tokens, kv_heads, head_dim]` from place `start` on, and lets `q` look at all up to there.
    fn attend(
        &self,
        start: i64,
        layer: usize,
        shape: AttentionShape,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let tokens = q.size()[0];
        let store = |into: &Tensor, new: &Tensor| -> Result<Tensor, ModelError> {
            into.f_narrow(1, start, tokens)?
                .f_copy_(&new.f_transpose(0, 1)?)?;
            Ok(into.f_narrow(1, 0, start + tokens)?.f_unsqueeze(0)?)
        };
        let keys = store(&self.layers[layer].keys, k)?;
        let values = store(&self.layers[layer].values, v)?;
        let mixed = causal_attention(&q.f_transpose(0, 1)?.f_unsqueeze(0)?, &keys, &values, shape)?;
        Ok(mixed
            .f_squeeze_dim(0)?
            .f_transpose(0, 1)?
            .f_reshape([tokens, -1])?)
    }
}

fn round_up(tokens: i64) -> i64 {
    (tokens.max(1) + BLOCK - 1) / BLOCK * BLOCK
}

/// Several sequences in one forward pass, each with its own cache and number of new tokens.
pub(crate) struct CachedSequences<'a> {
    pub(crate) sequences: Vec<CachedSequence<'a>>,
}

/// The tokens of one sequence in a pass: `tokens` of them, from place `start` on.
pub(crate) struct CachedSequence<'a> {
    pub(crate) start: i64,
    pub(crate) tokens: i64,
    pub(crate) cache: &'a KvCache,
}

impl CachedSequences<'_> {
    /// Attention of all rows of a step: `qkv: [tokens, (heads + 2 kv_heads) · head_dim]`, rotated, to
    /// `[tokens, heads · head_dim]`. `rows`: the step's table, where the device has kernels that read one.
    pub(crate) fn attend_rows(
        &self,
        layer: usize,
        config: &ModelConfig,
        qkv: &Tensor,
        rows: Option<&RowPass<'_>>,
    ) -> Result<Tensor, ModelError> {
        if let Some(rows) = rows {
            let out = rows.attend(layer, config, qkv)?;
            let is_long = |sequence: &CachedSequence<'_>| sequence.tokens > FEW_TOKENS;
            self.attend_each(layer, config, qkv, &out, is_long)?;
            return Ok(out);
        }
        let width = config.heads * config.head_dim;
        let out = Tensor::f_empty([qkv.size()[0], width], (qkv.f_kind()?, qkv.device()))?;
        if qkv.device() == Device::Cpu {
            attend_cached(
                qkv,
                &self.cached_rows(layer),
                attention_shape(config, layer),
                &out,
            )?;
        } else {
            self.attend_each(layer, config, qkv, &out, |_| true)?;
        }
        Ok(out)
    }

    fn cached_rows(&self, layer: usize) -> Vec<CachedRows<'_>> {
        let mut first_row = 0;
        let mut cached = Vec::with_capacity(self.sequences.len());
        for sequence in &self.sequences {
            let cache = &sequence.cache.layers[layer];
            cached.push(CachedRows {
                keys: &cache.keys,
                values: &cache.values,
                seen: sequence.start,
                first_row,
                rows: sequence.tokens,
            });
            first_row += sequence.tokens;
        }
        cached
    }

    /// Attention of some sequences, one after the other, by LibTorch.
    fn attend_each(
        &self,
        layer: usize,
        config: &ModelConfig,
        qkv: &Tensor,
        out: &Tensor,
        is_meant: impl Fn(&CachedSequence<'_>) -> bool,
    ) -> Result<(), ModelError> {
        let mut first_row = 0;
        for sequence in &self.sequences {
            if is_meant(sequence) {
                let part = |x: &Tensor| x.f_narrow(0, first_row, sequence.tokens);
                let attended = sequence.attend_rows(layer, config, &part(qkv)?)?;
                part(out)?.f_copy_(&attended)?;
            }
            first_row += sequence.tokens;
        }
        Ok(())
    }
}

impl CachedSequence<'_> {
    fn attend_rows(&self, layer: usize, config: &ModelConfig, qkv: &Tensor) -> Result<Tensor, ModelError> {
        let heads = qkv.f_view([self.tokens, -1, config.head_dim])?;
        let part = |first, count| heads.f_narrow(1, first, count);
        let shape = AttentionShape {
            window: config.windows[layer],
            scale: config.attention_scale,
            softcap: config.attention_softcap,
        };
        self.cache.attend(
            self.start,
            layer,
            shape,
            &part(0, config.heads)?,
            &part(config.heads, config.kv_heads)?,
            &part(config.heads + config.kv_heads, config.kv_heads)?,
        )
    }
}

impl Attend for CachedSequences<'_> {
    fn attend(
        &mut self,
        layer: usize,
        shape: AttentionShape,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let mut outputs = Vec::with_capacity(self.sequences.len());
        let mut first = 0;
        for sequence in &self.sequences {
            let rows = |x: &Tensor| x.f_narrow(0, first, sequence.tokens);
            let (q, k, v) = (rows(q)?, rows(k)?, rows(v)?);
            outputs.push(sequence.cache.attend(sequence.start, layer, shape, &q, &k, &v)?);
            first += sequence.tokens;
        }
        if outputs.len() == 1 {
            Ok(outputs.remove(0))
        } else {
            Ok(Tensor::f_cat(&outputs, 0)?)
        }
    }
}
