//! Where and in which number format a training runs.

use tch::{Cuda, Device, Kind};

use tunesmith_types::hyperparameters::TrainingDtype;

use crate::error::TrainError;

/// The device that `name` (`auto`, `cpu`, `cuda`, `cuda:N`) means here.
///
/// # Errors
/// The name is none of these, or the machine has no such device.
pub fn pick_device(name: &str) -> Result<Device, TrainError> {
    let unavailable = |reason: &str| TrainError::Device {
        device: name.to_owned(),
        reason: reason.to_owned(),
    };
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if !Cuda::is_available() => return Ok(Device::Cpu),
        "auto" | "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|number| number.parse::<usize>().ok())
            .ok_or_else(|| unavailable("it must be auto, cpu or cuda:N"))?,
    };
    if !Cuda::is_available() {
        return Err(unavailable(
            "no CUDA device, or no CUDA libraries beside LibTorch, were found",
        ));
    }
    if number as i64 >= Cuda::device_count() {
        return Err(unavailable("this machine has fewer CUDA devices"));
    }
    Ok(Device::Cuda(number))
}

/// The name of a device, as on the command line.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    }
}

/// The format of activations and of a frozen base.
#[must_use]
pub fn pick_kind(dtype: TrainingDtype, device: Device) -> Kind {
    match dtype {
        TrainingDtype::Float32 => Kind::Float,
        TrainingDtype::Bfloat16 => Kind::BFloat16,
        TrainingDtype::Auto if device.is_cuda() => Kind::BFloat16,
        TrainingDtype::Auto => Kind::Float,
    }
}

/// The name of a format, as on the command line.
#[must_use]
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// Fixes the number of threads, once, before any tensor work: results depend on it in the last bits.
pub fn set_threads(threads: Option<u32>) {
    let threads = threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        |threads| threads.max(1) as usize,
    );
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    tch::set_num_interop_threads(1);
}
