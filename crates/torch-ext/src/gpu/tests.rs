use std::path::PathBuf;

use tch::Device;

use super::kernels::{Argument, NAMES, SOURCE};
use super::nvrtc::Nvrtc;
use super::*;

/// NVRTC where `TUNESMITH_TEST_NVRTC` says, or where the program itself looks.
fn nvrtc() -> Result<Nvrtc, GpuError> {
    match std::env::var_os("TUNESMITH_TEST_NVRTC") {
        Some(path) => Nvrtc::open(&PathBuf::from(path)),
        None => Nvrtc::find(torch_folder().as_deref()),
    }
}

#[test]
fn all_kernels_compile_for_each_generation() {
    let nvrtc = match nvrtc() {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            assert!(std::env::var_os("TUNESMITH_TEST_NVRTC").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
    };
    for capability in [(8, 0), (9, 0), (12, 0)] {
        let code = nvrtc.compile(SOURCE, capability).unwrap();
        assert!(code.starts_with(b"\x7fELF"), "machine code");
        for name in NAMES {
            let section = [b".text.", name.bytes(), b"\0"].concat();
            assert!(
                code.windows(section.len()).any(|window| window == section),
                "{name:?}"
            );
        }
    }
    let wrong = nvrtc
        .compile("__global__ void f() { nothing; }", (9, 0))
        .unwrap_err();
    assert!(wrong.to_string().contains("nothing"), "{wrong}");
}

#[test]
fn an_argument_lies_in_the_low_bytes_of_its_slot() {
    assert_eq!(Argument::from(1.0f32).0.to_le_bytes()[..4], 1.0f32.to_le_bytes());
    assert_eq!(Argument::from(-2i64).0.to_le_bytes(), (-2i64).to_le_bytes());
    assert_eq!(Argument::from(true).0.to_le_bytes()[..4], 1i32.to_le_bytes());
    assert_eq!(Argument::from(std::ptr::null_mut()).0, 0);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    assert!(device_memory(Device::Cpu).is_err());
    assert!(device_memory(Device::Cuda(1000)).is_err());
    assert!(prepare_kernels(Device::Cuda(1000)).is_err());
    let x = tch::Tensor::from_slice(&[1i64, 2]);
    assert!(to_device_async(&x, Device::Cpu).unwrap().equal(&x));
}

#[test]
#[ignore = "needs a GPU"]
fn memory_is_counted_and_given_back() {
    let _ = crate::load_cuda();
    prepare_kernels(Device::Cuda(0)).unwrap();
    let big = tch::Tensor::zeros([64 << 20], (tch::Kind::Float, Device::Cuda(0)));
    let (with, total) = device_memory(Device::Cuda(0)).unwrap();
    drop(big);
    let (reserved, _) = device_memory(Device::Cuda(0)).unwrap();
    assert!(
        reserved >= with + (256 << 20) && reserved < total,
        "{with} {reserved} {total}"
    );
    empty_cuda_cache().unwrap();
    let (free, _) = device_memory(Device::Cuda(0)).unwrap();
    assert!(free >= with + (256 << 20));
    let x = tch::Tensor::from_slice(&[1i64, 2]);
    assert!(
        to_device_async(&x, Device::Cuda(0))
            .unwrap()
            .to_device(Device::Cpu)
            .equal(&x)
    );
}
