//! The host's memory allocator.

/// Lets the C library keep what is freed, so that a training step's large tensors do not cost page faults anew each step.
///
/// Call it once, first thing in `main`, before there are threads. It does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    // malloc.h
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_TOP_PAD: c_int = -2;
    const M_MMAP_MAX: c_int = -4;
    const M_ARENA_MAX: c_int = -8;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    pub(super) fn keep_freed_memory() {
        let settings = [
            (M_MMAP_MAX, 0),
            (M_TRIM_THRESHOLD, c_int::MAX),
            (M_TOP_PAD, 64 << 20),
            // The arenas of other threads have no room for large tensors, which would be mapped and unmapped after all.
            (M_ARENA_MAX, 1),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes any number for these parameters and locks the allocator itself.
            unsafe { mallopt(parameter, value) };
        }
    }
}
