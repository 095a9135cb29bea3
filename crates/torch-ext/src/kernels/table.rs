//! The C++ side of the CPU kernels: one table of functions per instruction set, of which the best that this processor
//! has is taken.

use std::ffi::c_void;

/// As `is_float32` in kernels.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Element {
    Float32 = 0,
    Bfloat16 = 1,
}

/// As `AttentionShape` in attention.hpp.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct RawAttentionShape {
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_columns: i64,
    pub(super) scale: f32,
    pub(super) window: i64,
    pub(super) cap: f32,
}

/// As `LoraRows` in lora_rows.hpp.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct RawLoraRows {
    pub(super) first_row: i64,
    pub(super) rows: i64,
    pub(super) rank: i64,
    pub(super) first_column: i64,
    pub(super) columns: i64,
    pub(super) a: Values,
    pub(super) b: Values,
    pub(super) scale: f32,
}

/// As `CachedRows` in cached_attention.hpp.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct RawCachedRows {
    pub(super) keys: Place,
    pub(super) values: Place,
    pub(super) capacity: i64,
    pub(super) seen: i64,
    pub(super) first_row: i64,
    pub(super) rows: i64,
}

type Place = *mut c_void;
type Values = *const c_void;
type Floats = *const f32;
type Integers = *const i64;

/// As `TunesmithKernels` in kernels.cpp: the same functions in the same order. Sizes and strides are in elements.
#[repr(C)]
pub(super) struct Table {
    pub(super) rms_norm: unsafe extern "C" fn(Element, i64, i64, i64, Values, i64, Floats, f32, Place, i64),
    pub(super) rms_norm_backward: unsafe extern "C" fn(
        Element,
        i64,
        i64,
        i64,
        Values,
        i64,
        Floats,
        f32,
        Values,
        i64,
        Values,
        i64,
        Place,
        i64,
    ),
    pub(super) rotate:
        unsafe extern "C" fn(Element, i64, i64, i64, i64, Place, i64, Floats, Floats, Integers, f32),
    pub(super) gate: unsafe extern "C" fn(Element, i32, i64, i64, Values, Place),
    pub(super) gate_backward: unsafe extern "C" fn(Element, i32, i64, i64, Place, Place),
    pub(super) score:
        unsafe extern "C" fn(Element, i64, i64, Place, Integers, Floats, f32, f32, i32, *mut f32, *mut i64),
    pub(super) drop: unsafe extern "C" fn(Element, i64, i64, Values, i64, Place, i64, u64, i64, f32, i32),
    pub(super) attend:
        unsafe extern "C" fn(Element, *const RawAttentionShape, i64, Integers, Values, Place, *mut f32),
    pub(super) attend_backward: unsafe extern "C" fn(
        Element,
        *const RawAttentionShape,
        i64,
        Integers,
        Values,
        Values,
        Values,
        Floats,
        Place,
    ),
    pub(super) adamw: unsafe extern "C" fn(
        i64,
        *mut f32,
        Floats,
        *mut f32,
        *mut f32,
        f32,
        f32,
        f32,
        f32,
        f32,
        f32,
        f32,
        f32,
    ),
    pub(super) serve_linear: unsafe extern "C" fn(Element, i64, i64, i64, Values, Values, Values, Place),
    pub(super) lora_rows:
        unsafe extern "C" fn(Element, i64, *const RawLoraRows, i64, i64, Values, Place, i64),
    pub(super) attend_cached: unsafe extern "C" fn(
        Element,
        *const RawAttentionShape,
        i64,
        *const RawCachedRows,
        Values,
        i64,
        Place,
        i64,
    ),
}

unsafe extern "C" {
    static tunesmith_kernels_baseline: Table;
    #[cfg(target_arch = "x86_64")]
    static tunesmith_kernels_avx2: Table;
    #[cfg(target_arch = "x86_64")]
    static tunesmith_kernels_avx512: Table;
    #[cfg(target_arch = "x86_64")]
    static tunesmith_kernels_avx512_bf16: Table;
}

/// The kernels for this processor: a pure function of it, so that a resumed run computes with the same ones.
pub(super) fn table() -> &'static Table {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if has_avx512 && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: an immutable table that lives as long as the program, of functions that this processor can run.
            return unsafe { &tunesmith_kernels_avx512_bf16 };
        }
        if has_avx512 {
            // SAFETY: as above.
            return unsafe { &tunesmith_kernels_avx512 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { &tunesmith_kernels_avx2 };
        }
    }
    // SAFETY: as above; the baseline asks for nothing beyond the target's own instruction set.
    unsafe { &tunesmith_kernels_baseline }
}
