//! NVRTC: CUDA C to machine code while the program runs, without a CUDA toolkit.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::GpuError;

type Program = *mut c_void;

/// Names of the library, the newest first.
const LIBRARIES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];
/// Where the wheels put it, from the folder of LibTorch's libraries.
const FOLDERS: [&str; 4] = [
    ".",
    "../../nvidia/cu13/lib",
    "../../nvidia/cuda_nvrtc/lib",
    "../../nvidia/cu12/lib",
];

pub(super) struct Nvrtc {
    library: Library,
}

/// Destroys the program on every way out.
struct Owned<'a>(&'a Nvrtc, Program);

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        if let Ok(destroy) = self.0.function::<Destroy>(c"nvrtcDestroyProgram") {
            // SAFETY: the program was made by this library and is destroyed here only.
            unsafe { destroy(&raw mut self.1) };
        }
    }
}

impl Nvrtc {
    /// The library beside LibTorch, in the wheels' folders, or where the loader finds it.
    pub(super) fn find(torch: Option<&Path>) -> Result<Self, GpuError> {
        let beside = torch.into_iter().flat_map(|torch| {
            FOLDERS
                .iter()
                .flat_map(move |folder| LIBRARIES.iter().map(move |name| torch.join(folder).join(name)))
        });
        let mut missing = None;
        for path in beside
            .filter(|path| path.exists())
            .chain(LIBRARIES.iter().map(PathBuf::from))
        {
            match Self::open(&path) {
                Ok(found) => return Ok(found),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or(GpuError::NoDevice))
    }

    pub(super) fn open(path: &Path) -> Result<Self, GpuError> {
        let failed = |source| GpuError::Library {
            library: path.display().to_string(),
            source,
        };
        // NVRTC asks for this companion by its bare name and does not look beside itself.
        for entry in path
            .parent()
            .and_then(|folder| folder.read_dir().ok())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("libnvrtc-builtins.so.") {
                // SAFETY: the library holds data for NVRTC and has no initialisers of note.
                let builtins =
                    unsafe { Library::open(Some(entry.path()), RTLD_NOW | RTLD_GLOBAL) }.map_err(failed)?;
                std::mem::forget(builtins);
            }
        }
        // SAFETY: NVIDIA's compiler library; its initialisers touch nothing of ours.
        let library = unsafe { Library::open(Some(path), RTLD_NOW) }.map_err(failed)?;
        Ok(Self { library })
    }

    fn function<F: Copy>(&self, name: &CStr) -> Result<F, GpuError> {
        // SAFETY: every caller names the type that NVRTC's header gives the function.
        let found = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        found.map(|symbol| *symbol).map_err(|source| GpuError::Library {
            library: name.to_string_lossy().into_owned(),
            source,
        })
    }

    /// Machine code of `source` for devices of the compute capability `(major, minor)`.
    pub(super) fn compile(&self, source: &str, (major, minor): (i32, i32)) -> Result<Vec<u8>, GpuError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let text = CString::new(source).map_err(|_| GpuError::Compile("a zero byte in the source".into()))?;
        let target = CString::new(format!("--gpu-architecture=sm_{major}{minor}")).unwrap_or_default();
        let options = [target.as_ptr(), c"--std=c++17".as_ptr()];
        let mut program = std::ptr::null_mut();
        let create = self.function::<Create>(c"nvrtcCreateProgram")?;
        // SAFETY: all strings end with zero and live through the call, which copies them; there are no headers.
        let made = unsafe {
            create(
                &raw mut program,
                text.as_ptr(),
                c"kernels.cu".as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if made != 0 {
            return Err(GpuError::Compile(format!("nvrtcCreateProgram returned {made}")));
        }
        let program = Owned(self, program);
        let compile = self.function::<Compile>(c"nvrtcCompileProgram")?;
        // SAFETY: the program lives, and so do the two options.
        let compiled = unsafe { compile(program.1, options.len() as c_int, options.as_ptr()) };
        if compiled != 0 {
            let log = self.bytes(&program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
            return Err(GpuError::Compile(
                String::from_utf8_lossy(&log)
                    .trim_end_matches('\0')
                    .trim()
                    .to_owned(),
            ));
        }
        self.bytes(&program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")
    }

    /// What a pair of NVRTC functions tells the size of and copies out.
    fn bytes(&self, program: &Owned<'_>, size: &CStr, copy: &CStr) -> Result<Vec<u8>, GpuError> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Copy = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let (ask, take) = (self.function::<Size>(size)?, self.function::<Copy>(copy)?);
        let mut length = 0;
        // SAFETY: the program lives, and `length` takes one size.
        let asked = unsafe { ask(program.1, &raw mut length) };
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer has the length that the library named for this program.
        if asked != 0 || unsafe { take(program.1, bytes.as_mut_ptr().cast()) } != 0 {
            return Err(GpuError::Compile(format!("{} failed", copy.to_string_lossy())));
        }
        Ok(bytes)
    }
}
