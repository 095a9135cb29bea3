//! What the rows of an inference step belong to, in the device's memory: each row's token, place, cache and adapter. Kernels
//! read it there, so that a step's launches are the same whatever its sequences are, and a graph can record them.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::checks::{Engine, KernelError, equal};

/// The widest head that [`super::attend_rows`] takes.
const WIDEST_HEAD: i64 = 256;
/// Numbers of a module in an adapter's table: struct LoraPair of cuda/lora_rows.cu.
const PAIR_NUMBERS: usize = 6;

/// What all steps of a model have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedShape {
    /// Of activations, caches and adapters: float32 or bfloat16.
    pub kind: Kind,
    /// Blocks.
    pub layers: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Every module that an adapter can change, in the order of a pass.
    pub sites: Vec<LoraSite>,
}

/// A module that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraSite {
    /// Width of its input.
    pub inner: i64,
    /// Where its columns begin in the product that it is a part of,
    pub first_column: i64,
    /// and how many there are.
    pub columns: i64,
}

impl ServedShape {
    /// Whether `device` has kernels that read a [`StepTable`] for a model of this shape.
    #[must_use]
    pub fn has_row_kernels(&self, device: Device) -> bool {
        self.head_dim <= WIDEST_HEAD && matches!(Engine::of(device), Engine::Gpu(_))
    }
}

/// One adapter, as the kernels find it.
#[derive(Debug)]
pub struct AdapterTable {
    shape: Arc<ServedShape>,
    /// int64 `[sites, PAIR_NUMBERS]`.
    table: Tensor,
    rank: i64,
    /// The tensors whose addresses are in the table.
    _tensors: Vec<Tensor>,
}

/// An adapter's part in one module.
#[derive(Debug, Clone, Copy)]
pub struct TablePair<'a> {
    /// `[rank, inner]`, packed.
    pub a: &'a Tensor,
    /// `[columns, rank]`, a view of a packed `[rank, columns]`.
    pub b: &'a Tensor,
    /// `s`.
    pub scale: f64,
}

impl AdapterTable {
    /// `pairs`: one for each of the shape's sites, `None` where the adapter changes nothing.
    ///
    /// # Errors
    /// A tensor does not fit its site, or there is no memory for the table.
    pub fn new(
        shape: &Arc<ServedShape>,
        pairs: &[Option<TablePair<'_>>],
        device: Device,
    ) -> Result<Self, KernelError> {
        const NAME: &str = "AdapterTable";
        equal(NAME, "pairs", pairs.len() as i64, shape.sites.len() as i64)?;
        let (mut numbers, mut tensors, mut most) = (Vec::new(), Vec::new(), 0);
        for (site, pair) in shape.sites.iter().zip(pairs) {
            let Some(pair) = pair else {
                numbers.extend([0; PAIR_NUMBERS]);
                continue;
            };
            let rank = pair.a.size().first().copied().unwrap_or(0);
            let is_like = |tensor: &Tensor| -> Result<bool, KernelError> {
                Ok(tensor.f_kind()? == shape.kind && tensor.device() == device)
            };
            let a_fits = pair.a.size() == [rank, site.inner] && pair.a.is_contiguous() && is_like(pair.a)?;
            let strides = pair.b.stride();
            let is_turned = strides == [1, site.columns] || rank == 1 && pair.b.is_contiguous();
            let b_fits = pair.b.size() == [site.columns, rank] && is_turned && is_like(pair.b)?;
            equal(
                NAME,
                "A and B fit the module",
                i64::from(a_fits && b_fits && rank > 0),
                1,
            )?;
            numbers.extend([
                pair.a.data_ptr() as i64,
                pair.b.data_ptr() as i64,
                rank,
                site.first_column,
                site.columns,
                i64::from((pair.scale as f32).to_bits()),
            ]);
            tensors.extend([pair.a.shallow_clone(), pair.b.shallow_clone()]);
            most = most.max(rank);
        }
        Ok(Self {
            shape: Arc::clone(shape),
            table: Tensor::f_from_slice(&numbers)?.f_to_device(device)?,
            rank: most,
            _tensors: tensors,
        })
    }

    /// The greatest rank of a module.
    #[must_use]
    pub fn rank(&self) -> i64 {
        self.rank
    }
}

/// One row of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepRow<'a> {
    /// Its token.
    pub token: i64,
    /// Where the token stands in its sequence, from 0.
    pub position: i64,
    /// Tokens of its sequence, with the new ones.
    pub length: i64,
    /// Its sequence's keys and values, `[layers, 2, kv_heads, capacity, head_dim]` packed; `None` for a row whose attention
    /// is made elsewhere.
    pub cache: Option<&'a Tensor>,
    /// Its adapter.
    pub adapter: Option<&'a AdapterTable>,
}

/// Room for a number of rows.
#[derive(Debug)]
pub struct StepTable {
    shape: Arc<ServedShape>,
    rows: i64,
    /// int64 `[COLUMNS, rows]`.
    places: Tensor,
}

/// A table with the rows of a step, whose caches and adapters it borrows.
#[derive(Debug)]
pub struct FilledTable<'a> {
    table: &'a StepTable,
    rank: i64,
    served: i64,
}

/// What the table holds of each row.
#[derive(Clone, Copy)]
enum Column {
    Tokens,
    Positions,
    Lengths,
    Caches,
    Capacities,
    Adapters,
    /// Not of a row: the rows that have a cache, in their order, then the others.
    Served,
}

const COLUMNS: usize = 7;

impl StepTable {
    /// # Errors
    /// There is no memory for it.
    pub fn new(shape: &Arc<ServedShape>, rows: usize, device: Device) -> Result<Self, KernelError> {
        let rows = rows as i64;
        Ok(Self {
            shape: Arc::clone(shape),
            rows,
            places: Tensor::f_zeros([COLUMNS as i64, rows], (Kind::Int64, device))?,
        })
    }

    /// Writes what the rows are; those behind them belong to no sequence.
    ///
    /// # Errors
    /// There are more rows than there is room for, or a cache or an adapter is not of the table's shape.
    pub fn fill<'a>(&'a mut self, rows: &[StepRow<'a>]) -> Result<FilledTable<'a>, KernelError> {
        const NAME: &str = "StepTable";
        let room = self.rows as usize;
        equal(
            NAME,
            "the rows have room",
            i64::from(rows.len() <= room && !rows.is_empty()),
            1,
        )?;
        let (mut numbers, mut rank) = (vec![0; COLUMNS * room], 0);
        for (place, row) in rows.iter().enumerate() {
            let mut set = |column: Column, number| numbers[column as usize * room + place] = number;
            set(Column::Tokens, row.token);
            set(Column::Positions, row.position);
            set(Column::Lengths, row.length);
            if let Some(cache) = row.cache {
                set(Column::Capacities, self.capacity(cache, row.position)?);
                set(Column::Caches, cache.data_ptr() as i64);
            }
            if let Some(adapter) = row.adapter {
                let is_of_model = Arc::ptr_eq(&adapter.shape, &self.shape) || adapter.shape == self.shape;
                equal(NAME, "the adapter is of this model", i64::from(is_of_model), 1)?;
                set(Column::Adapters, adapter.table.data_ptr() as i64);
                rank = rank.max(adapter.rank);
            }
        }
        let has_cache = |place: &usize| rows.get(*place).is_some_and(|row| row.cache.is_some());
        let (served, others): (Vec<_>, Vec<_>) = (0..room).partition(has_cache);
        for (slot, place) in served.iter().chain(&others).enumerate() {
            numbers[Column::Served as usize * room + slot] = *place as i64;
        }
        let size = [COLUMNS as i64, self.rows];
        self.places
            .f_copy_(&Tensor::f_from_slice(&numbers)?.f_view(size)?)?;
        Ok(FilledTable {
            table: self,
            rank,
            served: served.len() as i64,
        })
    }

    /// Room of a cache, once it is known to fit.
    fn capacity(&self, cache: &Tensor, position: i64) -> Result<i64, KernelError> {
        const NAME: &str = "StepTable";
        let size = cache.size();
        let capacity = size.get(3).copied().unwrap_or(0);
        let shape = &self.shape;
        let expected = [shape.layers, 2, shape.kv_heads, capacity, shape.head_dim];
        let is_like = cache.f_kind()? == shape.kind && cache.device() == self.places.device();
        let fits = size == expected && cache.is_contiguous() && is_like;
        equal(NAME, "the cache is of this model", i64::from(fits), 1)?;
        let has_room = 0 <= position && position < capacity;
        equal(NAME, "the cache has room", i64::from(has_room), 1)?;
        Ok(capacity)
    }
}

impl FilledTable<'_> {
    /// Rows for which there is room.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.table.rows
    }

    /// The greatest rank among the adapters.
    #[must_use]
    pub fn rank(&self) -> i64 {
        self.rank
    }

    /// How many rows have a cache.
    #[must_use]
    pub fn served(&self) -> i64 {
        self.served
    }

    pub(super) fn shape(&self) -> &ServedShape {
        &self.table.shape
    }

    /// int64 `[rows]`, a view.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn tokens(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Tokens)
    }

    /// As [`Self::tokens`].
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn positions(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Positions)
    }

    /// As [`Self::tokens`].
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn lengths(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Lengths)
    }

    pub(super) fn served_rows(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Served)
    }

    pub(super) fn caches(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Caches)
    }

    pub(super) fn capacities(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Capacities)
    }

    pub(super) fn adapters(&self) -> Result<Tensor, KernelError> {
        self.column(Column::Adapters)
    }

    fn column(&self, column: Column) -> Result<Tensor, KernelError> {
        Ok(self.table.places.f_select(0, column as i64)?)
    }
}
