//! CUDA graphs: the kernels of one pass, recorded once and started again at once.

use std::ffi::{c_char, c_int, c_void};

use tch::Device;

use super::{GpuError, ordinal};
use crate::shim::{ShimError, guarded};

unsafe extern "C" {
    fn tunesmith_cuda_side_stream(
        device: c_int,
        stream: *mut i64,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_cuda_stream_enter(
        stream: *const i64,
        before: *mut i64,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_cuda_stream_leave(before: *const i64, text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_wait(device: c_int, text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_graph_pool(pool: *mut u64, text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_graph_begin(
        pool: *const u64,
        graph: *mut *mut c_void,
        text: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn tunesmith_cuda_graph_end(graph: *mut c_void, text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_graph_replay(graph: *mut c_void, text: *mut c_char, capacity: usize) -> c_int;
    fn tunesmith_cuda_graph_free(graph: *mut c_void, text: *mut c_char, capacity: usize) -> c_int;
}

/// Memory for the tensors inside graphs, which those share that never run at the same time, and the stream on which they
/// are recorded.
#[derive(Debug)]
pub struct GraphMemory {
    ordinal: c_int,
    pool: [u64; 2],
    stream: [i64; 3],
}

impl GraphMemory {
    /// # Errors
    /// The device is not CUDA's, or LibTorch's CUDA half is not there.
    pub fn new(device: Device) -> Result<Self, GpuError> {
        let ordinal = ordinal(device)? as c_int;
        let mut pool = [0; 2];
        // SAFETY: fills the two live numbers.
        guarded(|text, capacity| unsafe { tunesmith_cuda_graph_pool(pool.as_mut_ptr(), text, capacity) })?;
        let mut stream = [0; 3];
        // SAFETY: fills the three live numbers.
        guarded(|text, capacity| unsafe {
            tunesmith_cuda_side_stream(ordinal, stream.as_mut_ptr(), text, capacity)
        })?;
        Ok(Self {
            ordinal,
            pool,
            stream,
        })
    }
}

/// A recorded pass. It reads and writes the very memory that it was recorded with.
#[derive(Debug)]
pub struct CudaGraph {
    graph: *mut c_void,
}

// SAFETY: a graph is bound to a device, not to a thread; it is used through one owner at a time.
unsafe impl Send for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the graph was made by the shim and is freed here only. A failure leaves memory behind, no more.
        let _ = guarded(|text, capacity| unsafe { tunesmith_cuda_graph_free(self.graph, text, capacity) });
    }
}

/// This thread's work on a device goes to another stream while it lives: the default one cannot be recorded.
struct Aside {
    /// The stream and the device that were.
    before: [i64; 4],
}

impl Aside {
    /// Behind all that was given to the device before.
    fn new(memory: &GraphMemory) -> Result<Self, ShimError> {
        wait(memory)?;
        let mut before = [0; 4];
        // SAFETY: reads three live numbers of the shim's, fills the four.
        guarded(|text, capacity| unsafe {
            tunesmith_cuda_stream_enter(memory.stream.as_ptr(), before.as_mut_ptr(), text, capacity)
        })?;
        Ok(Self { before })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // SAFETY: the numbers are those that the shim wrote.
        let _ = guarded(|text, capacity| unsafe {
            tunesmith_cuda_stream_leave(self.before.as_ptr(), text, capacity)
        });
    }
}

/// Until the device has done all that it was given.
fn wait(memory: &GraphMemory) -> Result<(), ShimError> {
    // SAFETY: no addresses but the message's.
    guarded(|text, capacity| unsafe { tunesmith_cuda_wait(memory.ordinal, text, capacity) })
}

/// A recording that has begun. It ends on every way out, so that the stream can be used again.
struct Recording(Option<CudaGraph>);

impl Recording {
    fn begin(memory: &GraphMemory) -> Result<Self, ShimError> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: reads two live numbers, fills one live address.
        guarded(|text, capacity| unsafe {
            tunesmith_cuda_graph_begin(memory.pool.as_ptr(), &raw mut graph, text, capacity)
        })?;
        Ok(Self(Some(CudaGraph { graph })))
    }

    fn end(mut self) -> Result<CudaGraph, ShimError> {
        let graph = self.0.take().expect("invariant: a recording ends once");
        graph.end().map(|()| graph)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(graph) = &self.0 {
            let _ = graph.end();
        }
    }
}

impl CudaGraph {
    /// Runs `body` once, so that libraries are warm, then records it without running it. Its result is that of the
    /// recording: what it holds has values after each [`Self::replay`].
    ///
    /// `body` must launch the same work each time, wait for nothing on the device, and keep the tensors that it reads
    /// from outside for as long as the graph lives.
    ///
    /// # Errors
    /// `body` failed, or CUDA does not record something that it does.
    pub fn record<T, E>(memory: &GraphMemory, mut body: impl FnMut() -> Result<T, E>) -> Result<(Self, T), E>
    where
        E: From<GpuError>,
    {
        let failed = |error: ShimError| E::from(GpuError::from(error));
        let _aside = Aside::new(memory).map_err(failed)?;
        drop(body()?);
        wait(memory).map_err(failed)?;
        let recording = Recording::begin(memory).map_err(failed)?;
        let result = body()?;
        Ok((recording.end().map_err(failed)?, result))
    }

    fn end(&self) -> Result<(), ShimError> {
        // SAFETY: the graph was begun on this thread and stream, and has not ended.
        guarded(|text, capacity| unsafe { tunesmith_cuda_graph_end(self.graph, text, capacity) })
    }

    /// Starts the recorded work on the stream where LibTorch works, and returns before it is done.
    ///
    /// # Errors
    /// The driver refused.
    pub fn replay(&self) -> Result<(), GpuError> {
        // SAFETY: the graph was recorded to its end; its memory is LibTorch's and the recorder's, who keeps it.
        guarded(|text, capacity| unsafe { tunesmith_cuda_graph_replay(self.graph, text, capacity) })?;
        Ok(())
    }
}
