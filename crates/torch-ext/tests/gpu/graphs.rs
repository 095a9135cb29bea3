//! Recorded passes.

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::GpuError;
use tunesmith_torch_ext::gpu::{CudaGraph, GraphMemory};
use tunesmith_torch_ext::kernels::{KernelError, rms_norm};

use crate::side::{GPU, assert_close, random, set_up};

#[test]
fn without_a_gpu_nothing_is_recorded() {
    assert!(matches!(GraphMemory::new(Device::Cpu), Err(GpuError::NoDevice)));
    if !tch::Cuda::is_available() {
        let error = GraphMemory::new(GPU).unwrap_err();
        assert!(matches!(error, GpuError::Torch(_)), "{error}");
    }
}

/// LibTorch's products and our kernels, in two graphs that share memory, replayed with other inputs in any order.
#[test]
#[ignore = "needs a GPU"]
fn replays_read_what_is_in_the_inputs() {
    set_up();
    let memory = GraphMemory::new(GPU).unwrap();
    let weight = random(1, &[64, 64], Kind::BFloat16).to_device(GPU);
    let scale = random(2, &[64], Kind::Float).to_device(GPU);
    let pass = |x: &Tensor| -> Result<Tensor, KernelError> {
        let product = x.f_linear(&weight, None::<&Tensor>)?;
        rms_norm(&product, &scale, 1e-6, 1)
    };
    let inputs = [4, 8].map(|rows| Tensor::zeros([rows, 64], (Kind::BFloat16, GPU)));
    let graphs = inputs
        .each_ref()
        .map(|x| CudaGraph::record(&memory, || pass(x)).unwrap());
    for seed in [3, 4, 5] {
        for (x, (graph, y)) in inputs.iter().zip(&graphs).rev() {
            let fresh = random(seed, &x.size(), Kind::BFloat16).to_device(GPU);
            x.shallow_clone().copy_(&fresh);
            graph.replay().unwrap();
            let expected = pass(&fresh).unwrap();
            assert_close(y, &expected.to_device(Device::Cpu), 1e-6);
        }
    }
}
