//! CUDA devices beyond what `tch` offers: run-time compiled kernels, memory, and copies that do not wait.
//!
//! Nothing here is linked: the driver, NVRTC and LibTorch's CUDA half are opened where they are there, so that one build
//! serves machines with and without a GPU.

use tch::{Device, TchError, Tensor};

use crate::cuda::folder_of_libtorch as torch_folder;
use crate::shim::{self, ShimError};
use driver::Driver;
pub use emulator::emulate;
pub use graph::{CudaGraph, GraphMemory};

mod driver;
pub(crate) mod emulator;
mod graph;
pub(crate) mod kernels;
mod nvrtc;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests;

/// Why a GPU could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The tensor's or the caller's device is not a CUDA device.
    #[error("not a CUDA device")]
    NoDevice,
    /// A library, or a function in it, is missing.
    #[error("{library}: {source}")]
    Library {
        /// The library or function.
        library: String,
        /// The dynamic loader's words.
        #[source]
        source: libloading::Error,
    },
    /// The CUDA driver refused.
    #[error("{call}: {reason}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Its words.
        reason: String,
    },
    /// NVRTC did not compile the kernels: its words.
    #[error("compiling CUDA kernels: {0}")]
    Compile(String),
    /// LibTorch refused.
    #[error(transparent)]
    Torch(#[from] ShimError),
    /// What was tried once for the whole process failed then.
    #[error("{0}")]
    Earlier(String),
}

impl GpuError {
    /// A kept error for one more caller.
    fn copy(&self) -> Self {
        Self::Earlier(self.to_string())
    }
}

fn ordinal(device: Device) -> Result<usize, GpuError> {
    match device {
        Device::Cuda(ordinal) => Ok(ordinal),
        _ => Err(GpuError::NoDevice),
    }
}

/// Compiles and loads the kernels for a device, which the first use of one does otherwise (about a second).
///
/// # Errors
/// Why there are none: the engine then takes several times as long for the same through LibTorch's own operations.
pub fn prepare_kernels(device: Device) -> Result<(), GpuError> {
    kernels::Kernels::of_or_why(ordinal(device)?).map(|_| ())
}

/// Free and total memory of a CUDA device in bytes. What LibTorch holds in reserve counts as free.
///
/// # Errors
/// It is not a CUDA device, or the driver does not answer.
pub fn device_memory(device: Device) -> Result<(u64, u64), GpuError> {
    let driver = Driver::get()?;
    let (context, _) = driver.device(ordinal(device)?)?;
    let (free, total) = driver.memory(context)?;
    // Before the first tensor on the device LibTorch has no reserve to tell of.
    let reserve = shim::cuda_reserve(ordinal(device)?).unwrap_or(0);
    Ok((free as u64 + reserve, total as u64))
}

/// Major and minor number of a CUDA device's compute capability.
///
/// # Errors
/// As [`device_memory`].
pub fn compute_capability(device: Device) -> Result<(i32, i32), GpuError> {
    let (_, capability) = Driver::get()?.device(ordinal(device)?)?;
    Ok(capability)
}

/// Gives the memory that LibTorch holds in reserve back to the CUDA devices.
///
/// # Errors
/// LibTorch's CUDA half is not loaded.
pub fn empty_cuda_cache() -> Result<(), ShimError> {
    shim::empty_cuda_cache()
}

/// A copy of a tensor of the host on `device` that the device makes in its own time: through page-locked memory, without
/// waiting. For a device that is not CUDA's, or a tensor that is there already, as `Tensor::to_device`.
///
/// # Errors
/// There is no memory for the copies.
pub fn to_device_async(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    if !matches!(device, Device::Cuda(_)) || tensor.device() != Device::Cpu {
        return tensor.f_to_device(device);
    }
    let pinned = tensor.f_internal_pin_memory(device)?;
    // LibTorch's allocator keeps the pinned memory until the copy is done, though `pinned` is dropped here.
    pinned.f_to_device_(device, tensor.f_kind()?, true, false)
}
