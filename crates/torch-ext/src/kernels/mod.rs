//! Fused elementwise and attention kernels of the training engine, for tensors on the CPU.
//!
//! All take float32 or bfloat16 tensors whose rows are contiguous, compute in float32, and are deterministic: the result
//! does not depend on the number of threads. Threads are OpenMP's, the same that LibTorch uses.

mod attention;
mod checks;
mod cross_entropy;
mod dropout;
mod elementwise;
mod linear;
mod optimizer;
mod table;

pub use attention::{AttentionShape, attend, attend_backward};
pub use checks::KernelError;
pub use cross_entropy::{RowScores, cross_entropy};
pub use dropout::{DropoutMask, dropout, dropout_add};
pub use elementwise::{
    Activation, RotaryTable, gate, gate_backward, rms_norm, rms_norm_backward, rms_norm_backward_add, rotate,
};
pub use linear::linear;
pub use optimizer::{AdamWStep, adamw};
