//! Fused elementwise and attention kernels of training and inference.
//!
//! All take float32 or bfloat16 tensors whose rows are contiguous, and compute in float32. The tensors' device decides who
//! computes:
//!
//! - on the CPU kernels/, compiled for several instruction sets. Threads are OpenMP's, the same that LibTorch uses; the
//!   result does not depend on their number;
//! - on CUDA cuda/, compiled for the device by NVRTC when it is first used, and LibTorch's flash attention;
//! - elsewhere, and on CUDA without NVRTC, LibTorch's own operations.

mod attention;
mod cached_attention;
mod checks;
mod cross_entropy;
mod dropout;
mod elementwise;
mod flash;
mod grouped;
mod linear;
mod optimizer;
mod plain;
mod rows;
mod serving_linear;
mod step_table;
mod table;

pub use attention::{Attended, AttentionShape, attend, attend_backward};
pub use cached_attention::{CachedRows, attend_cached};
pub use checks::KernelError;
pub use cross_entropy::{RowScores, cross_entropy};
pub use dropout::{DropoutMask, dropout, dropout_add};
pub use elementwise::{
    Activation, RotaryTable, gate, gate_backward, rms_norm, rms_norm_backward, rms_norm_backward_add, rotate,
};
pub use grouped::{RowGroups, grouped_mm, grouped_mm_is_one_launch};
pub use linear::linear;
pub use optimizer::{AdamWStep, adamw};
pub use rows::{attend_rows, lora_add_rows};
pub use serving_linear::{LoraPart, is_lora_part, lora_add, serving_linear};
pub use step_table::{AdapterTable, FilledTable, LoraSite, ServedShape, StepRow, StepTable, TablePair};
