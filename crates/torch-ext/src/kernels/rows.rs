//! Attention and adapters of few rows on a GPU, each row with the cache and the adapter that a [`FilledTable`] names.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::attention::AttentionShape;
use super::checks::{Engine, KernelError, Matrix, equal, refuse};
use super::step_table::FilledTable;
use crate::gpu::kernels::{self, Kernels};

/// Parts into which a row's keys are cut, so that one sequence keeps the device busy. The same for every row: its sums do
/// not depend on the others.
const PARTS: i64 = 16;
/// Threads of a block; a warp is 32.
const THREADS: i64 = 128;
const WARPS: i64 = THREADS / 32;

/// The kernels of the device, and `x` as a packed matrix with a row for each of the table's.
fn ready(
    name: &'static str,
    table: &FilledTable<'_>,
    x: &Tensor,
) -> Result<(&'static Kernels, Matrix), KernelError> {
    let input = Matrix::packed(name, "x", x)?;
    equal(name, "rows of x", input.rows, table.rows())?;
    equal(
        name,
        "x is of the table's kind",
        i64::from(x.f_kind()? == table.shape().kind),
        1,
    )?;
    match Engine::of(input.device) {
        Engine::Gpu(kernels) => Ok((kernels, input)),
        Engine::Cpu | Engine::Plain => refuse(name, "the device", input.device, "one with kernels for rows"),
    }
}

/// Stores each row's key and value in its sequence's cache of `layer`, then writes `softmax(scale · q kᵀ) v` over the cache
/// up to that row's position to the same row of the result. Rows of one sequence may come together: all are stored first.
///
/// `qkv: [rows, (heads + 2 kv_heads) · head_dim]`, rotated and packed; the result is `[rows, heads · head_dim]`. `served`: for
/// how many of the rows there is room, at least those that have a cache; of the others as many get zeros as it is more, and
/// the rest is left as it is. It is the same for all replays of a graph.
///
/// # Errors
/// The sizes, types or devices do not fit, or the device has no such kernels.
pub fn attend_rows(
    table: &FilledTable<'_>,
    layer: i64,
    served: i64,
    qkv: &Tensor,
    shape: AttentionShape,
) -> Result<Tensor, KernelError> {
    const NAME: &str = "attend_rows";
    let (kernels, input) = ready(NAME, table, qkv)?;
    let columns = shape.head_dim;
    let is_of_model = (shape.kv_heads, columns) == (table.shape().kv_heads, table.shape().head_dim)
        && (0..table.shape().layers).contains(&layer)
        && shape.heads % shape.kv_heads.max(1) == 0;
    equal(NAME, "the layer is of this model", i64::from(is_of_model), 1)?;
    let heads = shape.heads + 2 * shape.kv_heads;
    equal(NAME, "columns of qkv", input.columns, heads * columns)?;
    let has_room = (table.served()..=input.rows).contains(&served);
    equal(NAME, "the served rows have room", i64::from(has_room), 1)?;
    let out = Tensor::f_empty([input.rows, shape.heads * columns], (qkv.f_kind()?, qkv.device()))?;
    let (rows, positions) = (table.served_rows()?, table.positions()?);
    let (caches, capacities) = (table.caches()?, table.capacities()?);
    let place = [
        shape.heads.into(),
        shape.kv_heads.into(),
        columns.into(),
        layer.into(),
        input.place.into(),
        input.stride.into(),
        rows.data_ptr().into(),
        positions.data_ptr().into(),
        caches.data_ptr().into(),
        capacities.data_ptr().into(),
    ];
    let name = input.pick(kernels::KEEP_ROW_FLOAT32, kernels::KEEP_ROW_BFLOAT16);
    // SAFETY: qkv is a live tensor of the size that the kernel asks for; the table's caches are alive, of the layers, heads
    // and width given, and have room for each row's position.
    unsafe { kernels.launch(name, [served, 1], THREADS, &place)? };
    let size = served * shape.heads * PARTS * (columns + 2);
    let parts = Tensor::f_empty([size], (Kind::Float, qkv.device()))?;
    let rules = [
        (shape.scale as f32).into(),
        shape.window.unwrap_or(0).into(),
        (shape.softcap.unwrap_or(0.0) as f32).into(),
        parts.data_ptr().into(),
    ];
    let name = input.pick(kernels::ATTEND_ROWS_FLOAT32, kernels::ATTEND_ROWS_BFLOAT16);
    let grid = [served * ((shape.heads + WARPS - 1) / WARPS), PARTS];
    // SAFETY: as above, and each served row, head and part has its place in `parts`.
    unsafe { kernels.launch(name, grid, THREADS, &[&place[..], &rules[..]].concat())? };
    let arguments = [
        shape.heads.into(),
        columns.into(),
        PARTS.into(),
        parts.data_ptr().into(),
        rows.data_ptr().into(),
        caches.data_ptr().into(),
        out.data_ptr().into(),
        (shape.heads * columns).into(),
    ];
    let name = input.pick(kernels::JOIN_PARTS_FLOAT32, kernels::JOIN_PARTS_BFLOAT16);
    // SAFETY: `parts` was written by the kernel before for these rows and heads, and `out` has a place for each.
    unsafe { kernels.launch(name, [served * shape.heads, 1], THREADS, &arguments)? };
    Ok(out)
}

/// `y[row, columns] += s · (x Aᵀ) Bᵀ` in every module of `sites`, each row on its own adapter or none. `y` is the product
/// that the modules are parts of.
///
/// `x: [rows, inner]` and `y` packed; `ranks`: at least the table's greatest rank, and the same for all replays of a graph.
///
/// # Errors
/// The sizes, types or devices do not fit, or the device has no such kernels.
pub fn lora_add_rows(
    table: &FilledTable<'_>,
    sites: Range<usize>,
    ranks: i64,
    x: &Tensor,
    y: &Tensor,
) -> Result<(), KernelError> {
    const NAME: &str = "lora_add_rows";
    let (kernels, input) = ready(NAME, table, x)?;
    let output = Matrix::packed(NAME, "y", y)?;
    equal(NAME, "rows of y", output.rows, input.rows)?;
    equal(NAME, "element of y", output.element as i64, input.element as i64)?;
    equal(
        NAME,
        "y is on x's device",
        i64::from(output.device == input.device),
        1,
    )?;
    equal(NAME, "the ranks have room", i64::from(table.rank() <= ranks), 1)?;
    let modules = table.shape().sites.get(sites.clone()).unwrap_or_default();
    let fits = modules
        .iter()
        .all(|site| site.inner == input.columns && site.first_column + site.columns <= output.columns);
    equal(
        NAME,
        "the modules are of this product",
        i64::from(fits && !modules.is_empty()),
        1,
    )?;
    let count = modules.len() as i64;
    let widest = modules.iter().map(|site| site.columns).max().unwrap_or(0);
    let narrowed = Tensor::f_empty([input.rows * count * ranks], (Kind::Float, x.device()))?;
    let adapters = table.adapters()?;
    // SAFETY: x, y and narrowed are live tensors of the sizes that the kernels ask for; the table's adapters are alive, and
    // their pairs fit the sites, which lie within y.
    unsafe {
        kernels.launch(
            input.pick(kernels::LORA_NARROW_FLOAT32, kernels::LORA_NARROW_BFLOAT16),
            [input.rows * count, (ranks + WARPS - 1) / WARPS],
            THREADS,
            &[
                input.columns.into(),
                count.into(),
                (sites.start as i64).into(),
                ranks.into(),
                input.place.into(),
                input.stride.into(),
                adapters.data_ptr().into(),
                narrowed.data_ptr().into(),
            ],
        )?;
        kernels.launch(
            input.pick(kernels::LORA_WIDEN_FLOAT32, kernels::LORA_WIDEN_BFLOAT16),
            [input.rows * count, (widest + THREADS - 1) / THREADS],
            THREADS,
            &[
                count.into(),
                (sites.start as i64).into(),
                ranks.into(),
                narrowed.data_ptr().into(),
                adapters.data_ptr().into(),
                output.place.into(),
                output.stride.into(),
            ],
        )?;
    }
    Ok(())
}
