//! What every kernel asks of its tensors before it takes their addresses.

use std::ffi::c_void;

use tch::{Device, Kind, TchError, Tensor};

use super::table::Element;
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
}

/// A matrix of float32 or bfloat16 on the CPU with contiguous rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) element: Element,
    pub(super) rows: i64,
    pub(super) columns: i64,
    pub(super) stride: i64,
    pub(super) place: *mut c_void,
}

fn refuse<T>(
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

impl Matrix {
    /// # Errors
    /// `tensor` is on another device, of another kind, not two-dimensional, or has rows that are not contiguous.
    pub(super) fn of(kernel: &'static str, what: &'static str, tensor: &Tensor) -> Result<Self, KernelError> {
        if tensor.device() != Device::Cpu {
            return refuse(kernel, what, tensor.device(), "on the CPU");
        }
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
    /// The element type or a size differs from `other`'s.
    pub(super) fn like(
        self,
        kernel: &'static str,
        what: &'static str,
        other: Self,
    ) -> Result<Self, KernelError> {
        let facts = |matrix: Self| (matrix.element, matrix.rows, matrix.columns);
        if facts(self) == facts(other) {
            Ok(self)
        } else {
            refuse(kernel, what, facts(self), format!("{:?}", facts(other)))
        }
    }
}

/// The address of a contiguous tensor of `kind` on the CPU with `count` elements.
///
/// # Errors
/// It is not that.
pub(super) fn contiguous(
    kernel: &'static str,
    what: &'static str,
    tensor: &Tensor,
    kind: Kind,
    count: i64,
) -> Result<*mut c_void, KernelError> {
    let found = (
        tensor.device(),
        tensor.f_kind()?,
        tensor.numel() as i64,
        tensor.is_contiguous(),
    );
    if found == (Device::Cpu, kind, count, true) {
        Ok(tensor.data_ptr())
    } else {
        refuse(
            kernel,
            what,
            found,
            format!("{:?}", (Device::Cpu, kind, count, true)),
        )
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
