//! What every kernel asks of its tensors before it takes their addresses.

use std::ffi::c_void;

use tch::{Device, Kind, TchError, Tensor};

use super::table::Element;
use crate::gpu::kernels::{Kernels, Name};
use crate::gpu::{GpuError, emulator};
use crate::shim::ShimError;

/// Why a kernel did not run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tensor is not what the kernel takes: a defect of the caller.
    #[error("{kernel}: {what} is {found}, expected {expected}")]
    Tensor {
        /// The kernel.
        kernel: &'static str,
        /// Which tensor, and what of it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would do.
        expected: String,
    },
    /// LibTorch refused, most often for want of memory.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// The same, from a function that `tch` does not have.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// The GPU's driver refused.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Who computes for tensors on a device.
pub(super) enum Engine {
    /// The kernels of this processor.
    Cpu,
    /// The kernels in the GPU's memory.
    Gpu(&'static Kernels),
    /// LibTorch's own operations, several for each kernel.
    Plain,
}

/// A matrix of float32 or bfloat16 with contiguous rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) device: Device,
    pub(super) element: Element,
    pub(super) rows: i64,
    pub(super) columns: i64,
    pub(super) stride: i64,
    pub(super) place: *mut c_void,
}

/// # Errors
/// Always.
pub(super) fn refuse<T>(
    kernel: &'static str,
    what: &'static str,
    found: impl std::fmt::Debug,
    expected: impl Into<String>,
) -> Result<T, KernelError> {
    Err(KernelError::Tensor {
        kernel,
        what,
        found: format!("{found:?}"),
        expected: expected.into(),
    })
}

impl Engine {
    pub(super) fn of(device: Device) -> Self {
        match device {
            Device::Cpu if emulator::is_on() => Self::Gpu(&Kernels::Emulated),
            Device::Cpu => Self::Cpu,
            Device::Cuda(ordinal) => Kernels::of(ordinal).map_or(Self::Plain, Self::Gpu),
            _ => Self::Plain,
        }
    }
}

impl Matrix {
    /// Of two kernels, the one for this element type.
    pub(super) fn pick(self, float32: Name, bfloat16: Name) -> Name {
        match self.element {
            Element::Float32 => float32,
            Element::Bfloat16 => bfloat16,
        }
    }

    /// # Errors
    /// `tensor` is of another kind, not two-dimensional, or has rows that are not contiguous.
    pub(super) fn of(kernel: &'static str, what: &'static str, tensor: &Tensor) -> Result<Self, KernelError> {
        let element = match tensor.f_kind()? {
            Kind::Float => Element::Float32,
            Kind::BFloat16 => Element::Bfloat16,
            other => return refuse(kernel, what, other, "Float or BFloat16"),
        };
        let (size, stride) = (tensor.size(), tensor.stride());
        let &[rows, columns] = &size[..] else {
            return refuse(kernel, what, size, "two dimensions");
        };
        if columns > 1 && stride[1] != 1 {
            return refuse(kernel, what, stride, "contiguous rows");
        }
        Ok(Self {
            device: tensor.device(),
            element,
            rows,
            columns,
            stride: if rows > 1 { stride[0] } else { columns },
            place: tensor.data_ptr(),
        })
    }

    /// # Errors
    /// As [`Self::of`], or the rows are not end to end.
    pub(super) fn packed(
        kernel: &'static str,
        what: &'static str,
        tensor: &Tensor,
    ) -> Result<Self, KernelError> {
        let matrix = Self::of(kernel, what, tensor)?;
        if matrix.stride != matrix.columns {
            return refuse(kernel, what, tensor.stride(), "rows end to end");
        }
        Ok(matrix)
    }

    /// # Errors
    /// The device, the element type or a size differs from `other`'s.
    pub(super) fn like(
        self,
        kernel: &'static str,
        what: &'static str,
        other: Self,
    ) -> Result<Self, KernelError> {
        let facts = |matrix: Self| (matrix.device, matrix.element, matrix.rows, matrix.columns);
        if facts(self) == facts(other) {
            Ok(self)
        } else {
            refuse(kernel, what, facts(self), format!("{:?}", facts(other)))
        }
    }
}

/// The address of a contiguous tensor of `kind` on `device` with `count` elements.
///
/// # Errors
/// It is not that.
pub(super) fn contiguous(
    kernel: &'static str,
    what: &'static str,
    tensor: &Tensor,
    (kind, device): (Kind, Device),
    count: i64,
) -> Result<*mut c_void, KernelError> {
    let found = (
        tensor.device(),
        tensor.f_kind()?,
        tensor.numel() as i64,
        tensor.is_contiguous(),
    );
    if found == (device, kind, count, true) {
        Ok(tensor.data_ptr())
    } else {
        refuse(kernel, what, found, format!("{:?}", (device, kind, count, true)))
    }
}

/// # Errors
/// `found` differs from `expected`.
pub(super) fn equal(
    kernel: &'static str,
    what: &'static str,
    found: i64,
    expected: i64,
) -> Result<(), KernelError> {
    if found == expected {
        Ok(())
    } else {
        refuse(kernel, what, found, expected.to_string())
    }
}
