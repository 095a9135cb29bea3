//! Fused elementwise and attention kernels of training and inference.
//!
//! All take float32 or bfloat16 tensors whose rows are contiguous, and compute in float32. The tensors' device decides who
//! computes:
//!
//! - on the CPU kernels/, compiled for several instruction sets. Threads are OpenMP's, the same that LibTorch uses; the
//!   result does not depend on their number;
//! - on CUDA cuda/, compiled for the device by NVRTC when it is first used, on the default stream, and LibTorch's flash
//!   attention;
//! - elsewhere, and on CUDA without NVRTC, LibTorch's own operations.

mod attention;
mod checks;
mod cross_entropy;
mod decode;
mod dropout;
mod elementwise;
mod few_rows;
mod flash;
mod grouped;
mod linear;
mod optimizer;
mod plain;
mod table;

pub use attention::{Attended, AttentionShape, attend, attend_backward};
pub use checks::KernelError;
pub use cross_entropy::{RowScores, cross_entropy};
pub use decode::{CachedRow, decode_attend};
pub use dropout::{DropoutMask, dropout, dropout_add};
pub use elementwise::{
    Activation, RotaryTable, gate, gate_backward, rms_norm, rms_norm_backward, rms_norm_backward_add, rotate,
};
pub use few_rows::{LoraPart, is_for_few_rows, is_lora_part, lora_add, narrow_linear};
pub use grouped::grouped_mm;
pub use linear::linear;
pub use optimizer::{AdamWStep, adamw};
