//! Where a kernel of cuda/ runs.

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::gpu::{emulate, prepare_kernels};
use tunesmith_torch_ext::kernels::AttentionShape;

pub(crate) const GPU: Device = Device::Cuda(0);
/// Tolerances relative to the largest value.
pub(crate) const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 1.6e-2)];

/// Heads and rules of an attention layer from which the tests' others differ.
pub(crate) const ATTENTION: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    scale: 0.125,
    window: None,
    softcap: None,
};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    /// By the emulator, in the processor's memory.
    Emulated,
    Gpu,
}

impl Side {
    pub(crate) fn device(self) -> Device {
        match self {
            Self::Emulated => Device::Cpu,
            Self::Gpu => GPU,
        }
    }

    /// Never the tensor itself, since kernels write in place.
    pub(crate) fn copy(self, tensor: &Tensor) -> Tensor {
        tensor.to_device(self.device()).copy()
    }

    pub(crate) fn run<R>(self, body: impl FnOnce() -> R) -> R {
        match self {
            Self::Emulated => emulate(body),
            Self::Gpu => body(),
        }
    }
}

/// A test of each function by the emulator, and one on a GPU.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        #[cfg(target_os = "linux")]
        mod emulated {
            $(#[test]
            fn $name() {
                super::$name(crate::side::Side::Emulated);
            })*
        }
        mod on_a_gpu {
            $(#[test]
            #[ignore = "needs a GPU"]
            fn $name() {
                crate::side::set_up();
                super::$name(crate::side::Side::Gpu);
            })*
        }
    };
}
pub(crate) use on_both;

pub(crate) fn set_up() {
    let _ = tunesmith_torch_ext::load_cuda();
    prepare_kernels(GPU).unwrap();
}

pub(crate) fn random(seed: i64, size: &[i64], kind: Kind) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    let (found, expected) = (
        found.to_device(Device::Cpu).to_kind(Kind::Double),
        expected.to_kind(Kind::Double),
    );
    let largest = expected.abs().max().double_value(&[]).max(1e-9);
    let difference = (found - expected).abs().max().double_value(&[]) / largest;
    assert!(difference < tolerance, "{difference}");
}
