//! What `tch` does not offer, behind a safe surface: the only crate of the workspace with unsafe code.
//!
//! - [`kernels`]: the training engine's fused kernels, compiled for several instruction sets of the CPU and, while the
//!   program runs, for the GPU;
//! - [`cuda`]: load LibTorch's CUDA half at run time, so that one build serves machines with and without a GPU;
//! - [`gpu`]: what CUDA devices offer beyond `tch`;
//! - [`memory`]: keep the host's freed memory for the next step;
//! - [`waiting`]: how OpenMP's threads wait for each other;
//! - [`tensor_file`]: safetensors files, read through a memory map straight to the device, and written.

pub mod cuda;
pub mod gpu;
pub mod kernels;
pub mod memory;
mod shim;
pub mod tensor_file;
pub mod waiting;

pub use cuda::{CudaLibrary, load_cuda};
pub use gpu::{GpuError, device_memory, empty_cuda_cache, to_device_async};
pub use memory::keep_freed_memory;
pub use shim::ShimError;
pub use tensor_file::{MappedFile, TensorFileError, write_tensor_file};
pub use waiting::{compute_alone, wait_politely};
