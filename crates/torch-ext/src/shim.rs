//! shim/shim.cpp: functions of LibTorch that `tch` does not have.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tunesmith_onednn(float32: *mut bool, bfloat16: *mut bool, text: *mut c_char, capacity: usize)
    -> c_int;
    fn tunesmith_onednn_linear(
        x: *const C_tensor,
        weight: *const C_tensor,
        result: *mut *mut C_tensor,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_flash_attention(
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        ends: *const C_tensor,
        longest: i64,
        scale: f64,
        window: i64,
        results: *mut *mut C_tensor,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_cuda_stream(
        device: c_int,
        handle: *mut *mut c_void,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_empty_cuda_cache(text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_reserve(device: c_int, bytes: *mut i64, text: *mut c_char, capacity: usize) -> c_int;
}

/// LibTorch threw an exception: its words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ShimError(String);

/// Calls a function of the shim with a place for an exception's words.
pub(crate) fn guarded(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), ShimError> {
    let mut text: [c_char; 2048] = [0; 2048];
    if call(text.as_mut_ptr(), text.len()) == 0 {
        return Ok(());
    }
    // SAFETY: the buffer was zeroed, and the shim ends what it writes with a zero inside the capacity.
    let words = unsafe { CStr::from_ptr(text.as_ptr()) };
    Err(ShimError(words.to_string_lossy().into_owned()))
}

/// Element types that oneDNN multiplies with code made for this processor.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OneDnn {
    pub(crate) float32: bool,
    pub(crate) bfloat16: bool,
}

pub(crate) fn onednn() -> OneDnn {
    let mut found = OneDnn::default();
    // SAFETY: both flags are live for the call; the shim keeps no address.
    let asked = guarded(|text, capacity| unsafe {
        tunesmith_onednn(&raw mut found.float32, &raw mut found.bfloat16, text, capacity)
    });
    asked.map(|()| found).unwrap_or_default()
}

/// `x · weightᵀ` by oneDNN; both are matrices on the CPU of one element type that [`onednn`] has.
pub(crate) fn onednn_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor, ShimError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: both tensors are live for the call and only read; the shim checks types and sizes and keeps no address.
    guarded(|text, capacity| unsafe {
        tunesmith_onednn_linear(x.as_ptr(), weight.as_ptr(), &raw mut result, text, capacity)
    })?;
    // SAFETY: after success `result` is a tensor that was made for the caller.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// What LibTorch's flash attention returns.
#[derive(Debug)]
pub(crate) struct Flash {
    pub(crate) out: Tensor,
    pub(crate) lse: Tensor,
    pub(crate) random_state: Tensor,
    pub(crate) unused: Tensor,
}

/// Causal flash attention on CUDA. `query`, `key`, `value`: `[tokens, heads, head_dim]` of a half type; `bounds`: int32
/// `[documents + 1]` from 0, on the device; `window`: tokens before a query that it sees too.
pub(crate) fn flash_attention(
    [query, key, value]: [&Tensor; 3],
    bounds: &Tensor,
    longest: i64,
    scale: f64,
    window: Option<i64>,
) -> Result<Flash, ShimError> {
    let mut results = [std::ptr::null_mut(); 4];
    // SAFETY: all tensors are live for the call and only read; `results` has room for the four tensors.
    guarded(|text, capacity| unsafe {
        tunesmith_flash_attention(
            query.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            bounds.as_ptr(),
            longest,
            scale,
            window.unwrap_or(-1),
            results.as_mut_ptr(),
            text,
            capacity,
        )
    })?;
    // SAFETY: after success all four are tensors that were made for the caller.
    let [out, lse, random_state, unused] = results.map(|place| unsafe { Tensor::from_ptr(place) });
    Ok(Flash {
        out,
        lse,
        random_state,
        unused,
    })
}

/// Gives the CUDA allocator's unused memory back to the devices.
pub(crate) fn empty_cuda_cache() -> Result<(), ShimError> {
    // SAFETY: no addresses but the message's.
    guarded(|text, capacity| unsafe { tunesmith_empty_cuda_cache(text, capacity) })
}

/// Bytes that the CUDA allocator holds on a device and no tensor uses.
pub(crate) fn cuda_reserve(ordinal: usize) -> Result<u64, ShimError> {
    let mut bytes = 0;
    // SAFETY: fills one live variable.
    guarded(|text, capacity| unsafe {
        tunesmith_cuda_reserve(ordinal as c_int, &raw mut bytes, text, capacity)
    })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// CUDA's handle of the stream on which this thread's work on a device goes.
pub(crate) fn cuda_stream(ordinal: usize) -> Result<*mut c_void, ShimError> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: fills one live variable.
    guarded(|text, capacity| unsafe {
        tunesmith_cuda_stream(ordinal as c_int, &raw mut handle, text, capacity)
    })?;
    Ok(handle)
}
