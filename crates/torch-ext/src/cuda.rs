//! LibTorch's CUDA half, loaded when the program starts.
//!
//! Executables are linked against `libtorch_cpu.so` alone. Where `libtorch_cuda.so` lies beside it, opening that
//! library registers its kernels with the dispatcher, exactly as if it had been linked.

use std::fmt;
use std::path::{Path, PathBuf};

const CPU_LIBRARY: &str = "libtorch_cpu.so";
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// What became of the attempt to load LibTorch's CUDA half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaLibrary {
    /// Loaded from this file. Whether a GPU answers is another question: ask `tch::Cuda::is_available()`.
    Loaded(PathBuf),
    /// This installation of LibTorch has no CUDA half: the folder where it would be, where that is known.
    Absent(Option<PathBuf>),
    /// The file is there and did not load, most often for want of a CUDA library that it needs.
    Failed {
        /// The file.
        path: PathBuf,
        /// The dynamic loader's words.
        reason: String,
    },
}

impl CudaLibrary {
    /// Whether the CUDA half is in the process.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        matches!(self, Self::Loaded(_))
    }
}

impl fmt::Display for CudaLibrary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(path) => write!(formatter, "loaded {}", path.display()),
            Self::Absent(Some(folder)) => {
                write!(
                    formatter,
                    "no {CUDA_LIBRARY} in {}: this is a CPU installation",
                    folder.display()
                )
            }
            Self::Absent(None) => write!(formatter, "the folder of {CPU_LIBRARY} is not known"),
            Self::Failed { path, reason } => write!(formatter, "{} did not load: {reason}", path.display()),
        }
    }
}

/// Loads `libtorch_cuda.so` from the folder of the `libtorch_cpu.so` in this process, and keeps it loaded.
///
/// Call it first thing in `main`, before any call into `tch`: LibTorch looks for its CUDA hooks once. Harmless where
/// there is no CUDA half and no GPU; a failure leaves the CPU path working.
#[must_use]
pub fn load_cuda() -> CudaLibrary {
    let Some(folder) = folder_of_libtorch() else {
        return CudaLibrary::Absent(None);
    };
    let path = folder.join(CUDA_LIBRARY);
    if !path.exists() {
        return CudaLibrary::Absent(Some(folder));
    }
    match open_for_good(&path) {
        Ok(()) => CudaLibrary::Loaded(path),
        Err(error) => CudaLibrary::Failed {
            path,
            reason: error.to_string(),
        },
    }
}

/// Opens a shared library with its symbols visible to all others, and never closes it.
fn open_for_good(path: &Path) -> Result<(), libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the library's initialisers are LibTorch's own, of the same build as the libtorch_cpu.so beside it,
    // which this process already runs; they register kernels and touch nothing of ours.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
    // The dispatcher now points into the library: it must stay for as long as the process lives.
    std::mem::forget(library);
    Ok(())
}

/// Where the LibTorch of this process lies.
pub(crate) fn folder_of_libtorch() -> Option<PathBuf> {
    folder_of_mapped(CPU_LIBRARY)
}

/// The folder of a library that is mapped into this process; `None` where there is no `/proc`, or no such library.
fn folder_of_mapped(library: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| folder_in_maps_line(line, library))
}

fn folder_in_maps_line(line: &str, library: &str) -> Option<PathBuf> {
    let path = Path::new(line.get(line.find('/')?..)?);
    (path.file_name()? == library)
        .then(|| path.parent().map(Path::to_path_buf))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_found_in_a_maps_line() {
        let line = "7f00-7f01 r--p 00000000 08:01 42    /opt/with space/torch/lib/libtorch_cpu.so";
        let folder = folder_in_maps_line(line, CPU_LIBRARY);
        assert_eq!(folder, Some(PathBuf::from("/opt/with space/torch/lib")));
        assert_eq!(
            folder_in_maps_line("7f00-7f01 rw-p 00000000 00:00 0  [heap]", CPU_LIBRARY),
            None
        );
        assert_eq!(
            folder_in_maps_line("7f00-7f01 r--p 0 08:01 4 /opt/libtorch_cpu.so.old", CPU_LIBRARY),
            None
        );
    }

    #[test]
    fn loading_leaves_the_cpu_working() {
        let outcome = load_cuda();
        assert_ne!(
            outcome,
            CudaLibrary::Absent(None),
            "libtorch_cpu.so is linked, so its folder is known"
        );
        let sum = tch::Tensor::from_slice(&[1.0f32, 2.0]).sum(tch::Kind::Float);
        assert_eq!(sum.double_value(&[]), 3.0);
    }
}
