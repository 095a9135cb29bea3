//! The kernels of cuda/, compiled for a device when it is first used.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::driver::{Context, Driver, Function};
use super::nvrtc::Nvrtc;
use super::{GpuError, emulator, torch_folder};
use crate::shim;

/// The program: element.cu first, which the others use.
pub(super) const SOURCE: &str = concat!(
    include_str!("../../cuda/element.cu"),
    include_str!("../../cuda/norm.cu"),
    include_str!("../../cuda/rope.cu"),
    include_str!("../../cuda/glu.cu"),
    include_str!("../../cuda/cross_entropy.cu"),
    include_str!("../../cuda/dropout.cu"),
    include_str!("../../cuda/optimizer.cu"),
    include_str!("../../cuda/cached_attention.cu"),
    include_str!("../../cuda/lora_rows.cu"),
);

/// A kernel of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name(&'static CStr);

macro_rules! names {
    ($($constant:ident = $name:literal,)*) => {
        $(pub(crate) const $constant: Name = Name($name);)*
        pub(super) const NAMES: &[Name] = &[$($constant,)*];
    };
}

names! {
    RMS_NORM_FLOAT32 = c"rms_norm_float32",
    RMS_NORM_BFLOAT16 = c"rms_norm_bfloat16",
    RMS_NORM_BACKWARD_FLOAT32 = c"rms_norm_backward_float32",
    RMS_NORM_BACKWARD_BFLOAT16 = c"rms_norm_backward_bfloat16",
    ROTATE_FLOAT32 = c"rotate_float32",
    ROTATE_BFLOAT16 = c"rotate_bfloat16",
    GATE_FLOAT32 = c"gate_float32",
    GATE_BFLOAT16 = c"gate_bfloat16",
    GATE_BACKWARD_FLOAT32 = c"gate_backward_float32",
    GATE_BACKWARD_BFLOAT16 = c"gate_backward_bfloat16",
    CROSS_ENTROPY_FLOAT32 = c"cross_entropy_float32",
    CROSS_ENTROPY_BFLOAT16 = c"cross_entropy_bfloat16",
    DROPOUT_FLOAT32 = c"dropout_float32",
    DROPOUT_BFLOAT16 = c"dropout_bfloat16",
    ADAMW = c"adamw",
    KEEP_ROW_FLOAT32 = c"keep_row_float32",
    KEEP_ROW_BFLOAT16 = c"keep_row_bfloat16",
    ATTEND_ROWS_FLOAT32 = c"attend_rows_float32",
    ATTEND_ROWS_BFLOAT16 = c"attend_rows_bfloat16",
    JOIN_PARTS_FLOAT32 = c"join_parts_float32",
    JOIN_PARTS_BFLOAT16 = c"join_parts_bfloat16",
    LORA_NARROW_FLOAT32 = c"lora_narrow_float32",
    LORA_NARROW_BFLOAT16 = c"lora_narrow_bfloat16",
    LORA_WIDEN_FLOAT32 = c"lora_widen_float32",
    LORA_WIDEN_BFLOAT16 = c"lora_widen_bfloat16",
}

#[cfg(test)]
impl Name {
    pub(super) fn bytes(self) -> &'static [u8] {
        self.0.to_bytes()
    }
}

/// An argument of a kernel, in the low bytes of a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument(pub(super) u64);

impl From<*mut c_void> for Argument {
    fn from(place: *mut c_void) -> Self {
        Self(place as u64)
    }
}
impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self(value.cast_unsigned())
    }
}
impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self(value)
    }
}
impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self(u64::from(value.to_bits()))
    }
}
/// An `int` of the kernel.
impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self(u64::from(value))
    }
}

/// The kernels, ready to start.
pub(crate) enum Kernels {
    /// In a device's memory.
    Loaded(LoadedKernels),
    /// On the processor, for tests.
    Emulated,
}

pub(crate) struct LoadedKernels {
    ordinal: usize,
    driver: &'static Driver,
    context: Context,
    functions: HashMap<Name, Function>,
}

// SAFETY: the addresses are handles of the driver, which any thread may use.
unsafe impl Send for LoadedKernels {}
// SAFETY: as above.
unsafe impl Sync for LoadedKernels {}

impl Kernels {
    /// The kernels for a device; `None` where the driver or NVRTC is missing, or does not know the device.
    pub(crate) fn of(ordinal: usize) -> Option<&'static Self> {
        Self::of_or_why(ordinal).ok()
    }

    /// As [`Self::of`], with the reason.
    pub(super) fn of_or_why(ordinal: usize) -> Result<&'static Self, GpuError> {
        type Loaded = &'static Result<Kernels, GpuError>;
        static DEVICES: OnceLock<Mutex<HashMap<usize, Loaded>>> = OnceLock::new();
        let mut devices = DEVICES
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One for each device, for as long as the program runs.
        devices
            .entry(ordinal)
            .or_insert_with(|| Box::leak(Box::new(Self::load(ordinal))))
            .as_ref()
            .map_err(GpuError::copy)
    }

    fn load(ordinal: usize) -> Result<Self, GpuError> {
        let driver = Driver::get()?;
        let (context, capability) = driver.device(ordinal)?;
        let nvrtc = Nvrtc::find(torch_folder().as_deref())?;
        let code = nvrtc.compile(SOURCE, capability)?;
        let names: Vec<&'static CStr> = NAMES.iter().map(|name| name.0).collect();
        let functions = driver.load(context, &code, &names)?;
        Ok(Self::Loaded(LoadedKernels {
            ordinal,
            driver,
            context,
            functions: NAMES.iter().copied().zip(functions).collect(),
        }))
    }

    /// Starts a kernel with `grid` blocks of `block` threads, on the stream where LibTorch works.
    ///
    /// # Safety
    /// The arguments are those that the kernel in cuda/ declares, and its addresses are of live tensors on this device
    /// whose sizes and strides the other arguments tell.
    pub(crate) unsafe fn launch(
        &self,
        name: Name,
        grid: [i64; 2],
        block: i64,
        arguments: &[Argument],
    ) -> Result<(), GpuError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let sizes = grid.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let mut slots: Vec<u64> = arguments.iter().map(|argument| argument.0).collect();
        let loaded = match self {
            // SAFETY: by the caller's word; the tensors are the processor's then.
            Self::Emulated => return unsafe { emulator::launch(name.0, sizes, block as u32, &slots) },
            Self::Loaded(loaded) => loaded,
        };
        let stream = shim::cuda_stream(loaded.ordinal)?;
        let function = loaded.functions[&name];
        // SAFETY: by the caller's word; the driver itself refuses a grid that is too large.
        unsafe {
            loaded.driver.launch(
                loaded.context,
                function,
                (sizes, block as u32),
                &mut slots,
                stream,
            )
        }
    }
}
