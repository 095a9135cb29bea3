//! safetensors files: read through a memory map, so that a weight reaches its device in one copy, and written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use tch::{Device, Kind, TchError, Tensor};

/// Why a safetensors file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TensorFileError {
    /// The file could not be opened, mapped or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not safetensors: its header is damaged, or lies outside the limits of the format.
    #[error("{path} is not a whole safetensors file: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SafeTensorError,
    },
    /// The file has no tensor of that name.
    #[error("{path} has no tensor `{tensor}`")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        tensor: String,
    },
    /// A tensor has an element type that LibTorch or this program does not know.
    #[error("{path}: tensor `{tensor}` has elements of type {dtype}, which is not supported")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type in the format's words, or LibTorch's.
        dtype: String,
    },
    /// LibTorch refused, most often for want of memory.
    #[error("{path}: tensor `{tensor}`: {source}")]
    Torch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The cause.
        #[source]
        source: TchError,
    },
}

/// A safetensors file in memory by `mmap`: its header is parsed, its data is read when a tensor is loaded.
///
/// The file must not be truncated while it is mapped, or the process gets SIGBUS: map only files that nobody writes
/// (staged base models, finished checkpoints).
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    data_start: usize,
}

impl MappedFile {
    /// Maps `path` and checks its header: at most 100 MB, offsets without gaps or overlaps, and data to the last byte.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, TensorFileError> {
        let io = |source| TensorFileError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and private to this process; that nobody truncates the file meanwhile is the
        // documented condition of this type.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header_length, header) =
            SafeTensors::read_metadata(&map).map_err(|source| TensorFileError::Format {
                path: path.to_path_buf(),
                source,
            })?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            header,
            data_start: header_length + size_of::<u64>(),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// Whether the file has a tensor of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The free-form part of the header, such as `format`.
    #[must_use]
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.header.metadata().as_ref()
    }

    /// The sizes of a tensor.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<i64>, TensorFileError> {
        // A size beyond i64 cannot occur: the header check multiplied it into the length of the file.
        Ok(self.info(name)?.shape.iter().map(|&size| size as i64).collect())
    }

    /// The element type of a tensor.
    ///
    /// # Errors
    /// There is no such tensor, or LibTorch does not know its type.
    pub fn kind(&self, name: &str) -> Result<Kind, TensorFileError> {
        let dtype = self.info(name)?.dtype;
        kind_of(dtype).ok_or_else(|| TensorFileError::Dtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: format!("{dtype:?}"),
        })
    }

    /// Copies a tensor to `device`, converted to `kind` where one is given: a single pass over its bytes.
    ///
    /// # Errors
    /// There is no such tensor, its type is not supported, or there is no memory for it.
    pub fn load(&self, name: &str, device: Device, kind: Option<Kind>) -> Result<Tensor, TensorFileError> {
        let kind = kind.map_or_else(|| self.kind(name), Ok)?;
        let owned =
            Tensor::f_empty(self.shape(name)?, (kind, device)).map_err(|source| self.torch(name, source))?;
        self.load_into(name, &owned)?;
        Ok(owned)
    }

    /// Copies a tensor over `target`, which has its shape: any type and device, and a view of a larger tensor too.
    ///
    /// # Errors
    /// There is no such tensor, its type is not supported, or its shape is another.
    pub fn load_into(&self, name: &str, target: &Tensor) -> Result<(), TensorFileError> {
        let stored = self.kind(name)?;
        let shape = self.shape(name)?;
        let (start, end) = self.info(name)?.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        copy(bytes, &shape, stored, target).map_err(|source| self.torch(name, source))
    }

    fn torch(&self, name: &str, source: TchError) -> TensorFileError {
        TensorFileError::Torch {
            path: self.path.clone(),
            tensor: name.to_owned(),
            source,
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, TensorFileError> {
        self.header.info(name).ok_or_else(|| TensorFileError::Missing {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })
    }
}

/// Copies `bytes`, the elements of `shape`, over `target`.
fn copy(bytes: &[u8], shape: &[i64], stored: Kind, target: &Tensor) -> Result<(), TchError> {
    let mut target = target.shallow_clone();
    if target.size() != shape {
        return Err(TchError::Shape(format!(
            "the target is {:?}, the tensor {shape:?}",
            target.size()
        )));
    }
    if bytes.is_empty() || bytes.as_ptr().align_offset(stored.elt_size_in_bytes()) != 0 {
        // Rare: a writer that did not pad its header. One more copy puts the data on an aligned address.
        return target.f_copy_(&Tensor::f_from_data_size(bytes, shape, stored)?);
    }
    // SAFETY: `bytes` holds exactly the elements of `shape` (the header check compared them), is aligned, and
    // outlives the borrowed tensor, which is only read, and only in this function.
    let borrowed = unsafe {
        Tensor::f_from_blob(
            bytes.as_ptr(),
            shape,
            &contiguous_strides(shape),
            stored,
            Device::Cpu,
        )
    }?;
    target.f_copy_(&borrowed)
}

/// Writes tensors to a safetensors file with the header metadata `{"format":"pt"}`, which transformers and PEFT ask for.
///
/// The same tensors give the same bytes. The file is not synced to disk, and is not whole until this returns: write
/// beside the place where it belongs and rename.
///
/// # Errors
/// A tensor has an element type that the format lacks, LibTorch could not copy it to the host, or the disk is full.
pub fn write_tensor_file<N: AsRef<str>, T: AsRef<Tensor>>(
    path: &Path,
    tensors: &[(N, T)],
) -> Result<(), TensorFileError> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| {
            Ok((
                name.as_ref(),
                HostTensor::new(path, name.as_ref(), tensor.as_ref())?,
            ))
        })
        .collect::<Result<Vec<_>, TensorFileError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|source| match source {
        SafeTensorError::IoError(source) => TensorFileError::Io {
            path: path.to_path_buf(),
            source,
        },
        source => TensorFileError::Format {
            path: path.to_path_buf(),
            source,
        },
    })
}

/// A tensor's bytes on the host, row-major.
struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl HostTensor {
    fn new(path: &Path, name: &str, tensor: &Tensor) -> Result<Self, TensorFileError> {
        let torch = |source| TensorFileError::Torch {
            path: path.to_path_buf(),
            tensor: name.to_owned(),
            source,
        };
        let kind = tensor.f_kind().map_err(torch)?;
        let dtype = dtype_of(kind).ok_or_else(|| TensorFileError::Dtype {
            path: path.to_path_buf(),
            tensor: name.to_owned(),
            dtype: format!("{kind:?}"),
        })?;
        let elements = tensor.numel();
        let mut bytes = vec![0; elements * kind.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, elements).map_err(torch)?;
        // Sizes of an existing tensor are never negative.
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        Ok(Self { dtype, shape, bytes })
    }
}

impl View for HostTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Element types that both sides know.
const KINDS: [(Dtype, Kind); 10] = [
    (Dtype::F32, Kind::Float),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F16, Kind::Half),
    (Dtype::F64, Kind::Double),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS
        .iter()
        .find(|(known, _)| *known == dtype)
        .map(|&(_, kind)| kind)
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS
        .iter()
        .find(|(_, known)| *known == kind)
        .map(|&(dtype, _)| dtype)
}

fn contiguous_strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
