//! The GPU's kernels on the processor, for tests where there is no GPU: cuda/emulator/.

use std::cell::Cell;
use std::ffi::CStr;

use super::GpuError;

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` with the GPU's kernels in the place of the processor's on this thread, for tensors in the processor's
/// memory. They are thousands of times slower there: for tests. Elsewhere than on Linux nothing changes.
pub fn emulate<R>(body: impl FnOnce() -> R) -> R {
    struct Off(bool);
    impl Drop for Off {
        fn drop(&mut self) {
            IS_ON.set(self.0);
        }
    }
    let _off = Off(IS_ON.replace(cfg!(target_os = "linux")));
    body()
}

pub(crate) fn is_on() -> bool {
    IS_ON.get()
}

/// Runs a kernel to its end.
///
/// # Safety
/// As [`super::kernels::Kernels::launch`], for tensors in the processor's memory.
#[cfg(target_os = "linux")]
pub(super) unsafe fn launch(name: &CStr, grid: [u32; 2], block: u32, slots: &[u64]) -> Result<(), GpuError> {
    use std::ffi::{c_char, c_int};
    use std::sync::{Mutex, PoisonError};

    unsafe extern "C" {
        fn tunesmith_emulate(
            name: *const c_char,
            grid_x: u32,
            grid_y: u32,
            block: u32,
            slots: *const u64,
        ) -> c_int;
    }
    // The emulator's indices are those of the one kernel that runs.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the name ends with zero, the slots are as many as the kernel has arguments, and the rest is the caller's word.
    let code = unsafe { tunesmith_emulate(name.as_ptr(), grid[0], grid[1], block, slots.as_ptr()) };
    if code == 0 {
        Ok(())
    } else {
        Err(GpuError::Earlier(format!("the emulator refuses {name:?}")))
    }
}

/// # Safety
/// It does nothing.
#[cfg(not(target_os = "linux"))]
pub(super) unsafe fn launch(
    name: &CStr,
    _grid: [u32; 2],
    _block: u32,
    _slots: &[u64],
) -> Result<(), GpuError> {
    Err(GpuError::Earlier(format!(
        "there is no emulator here for {name:?}"
    )))
}
