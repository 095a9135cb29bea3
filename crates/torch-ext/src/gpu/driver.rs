//! The CUDA driver library, as far as kernels need it.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_NOW};

use super::GpuError;

/// A device's primary context, which LibTorch uses too; kept for good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context(*mut c_void);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Context {}

type Module = *mut c_void;
pub(super) type Function = *mut c_void;
pub(crate) type Stream = *mut c_void;

/// A device: its context, and its compute capability.
pub(super) type Gpu = (Context, (i32, i32));

// cuda.h
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// Functions of libcuda.so.1, with the types of cuda.h.
pub(super) struct Driver {
    device_get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    device_get_attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    primary_context_retain: unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int,
    context_push: unsafe extern "C" fn(*mut c_void) -> c_int,
    context_pop: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    module_load_data: unsafe extern "C" fn(*mut Module, *const c_void) -> c_int,
    module_get_function: unsafe extern "C" fn(*mut Function, Module, *const c_char) -> c_int,
    #[allow(clippy::type_complexity)]
    launch_kernel: unsafe extern "C" fn(
        Function,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Stream,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> c_int,
    memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    devices: Mutex<HashMap<usize, Gpu>>,
    _library: Library,
}

impl Driver {
    /// The driver of this machine, started.
    pub(super) fn get() -> Result<&'static Self, GpuError> {
        static DRIVER: OnceLock<Result<Driver, GpuError>> = OnceLock::new();
        DRIVER.get_or_init(Self::open).as_ref().map_err(GpuError::copy)
    }

    fn open() -> Result<Self, GpuError> {
        const NAME: &str = "libcuda.so.1";
        let failed = |source| GpuError::Library {
            library: NAME.to_owned(),
            source,
        };
        // SAFETY: NVIDIA's driver library, which LibTorch opens too.
        let library = unsafe { Library::open(Some(Path::new(NAME)), RTLD_NOW) }.map_err(failed)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field that takes it has the type that cuda.h gives the function.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(failed)?
            };
        }
        // SAFETY: cuda.h: CUresult cuInit(unsigned int).
        let start = unsafe { library.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit\0") };
        let start = *start.map_err(failed)?;
        let driver = Self {
            device_get: function!("cuDeviceGet"),
            device_get_attribute: function!("cuDeviceGetAttribute"),
            primary_context_retain: function!("cuDevicePrimaryCtxRetain"),
            context_push: function!("cuCtxPushCurrent_v2"),
            context_pop: function!("cuCtxPopCurrent_v2"),
            module_load_data: function!("cuModuleLoadData"),
            module_get_function: function!("cuModuleGetFunction"),
            launch_kernel: function!("cuLaunchKernel"),
            memory_info: function!("cuMemGetInfo_v2"),
            get_error_string: function!("cuGetErrorString"),
            devices: Mutex::default(),
            _library: library,
        };
        // SAFETY: zero is the one flag that it takes; starting twice is allowed.
        driver.check("cuInit", unsafe { start(0) })?;
        Ok(driver)
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), GpuError> {
        if code == 0 {
            return Ok(());
        }
        let mut words = std::ptr::null();
        // SAFETY: `words` takes one address, of a string that lives as long as the driver, or none.
        unsafe { (self.get_error_string)(code, &raw mut words) };
        let reason = if words.is_null() {
            format!("error {code}")
        } else {
            // SAFETY: not null, so a string that ends with zero.
            unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
        };
        Err(GpuError::Driver { call, reason })
    }

    /// The context that LibTorch uses on a device, and the device's compute capability.
    pub(super) fn device(&self, ordinal: usize) -> Result<Gpu, GpuError> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = devices.get(&ordinal) {
            return Ok(*known);
        }
        let found = self.find_device(ordinal)?;
        devices.insert(ordinal, found);
        Ok(found)
    }

    fn find_device(&self, ordinal: usize) -> Result<Gpu, GpuError> {
        let (mut device, mut major, mut minor) = (0, 0, 0);
        let mut context = std::ptr::null_mut();
        // SAFETY: every call fills one live variable; the primary context is kept for good.
        unsafe {
            self.check(
                "cuDeviceGet",
                (self.device_get)(&raw mut device, ordinal as c_int),
            )?;
            let ask = |to, what| {
                self.check(
                    "cuDeviceGetAttribute",
                    (self.device_get_attribute)(to, what, device),
                )
            };
            ask(&raw mut major, COMPUTE_CAPABILITY_MAJOR)?;
            ask(&raw mut minor, COMPUTE_CAPABILITY_MINOR)?;
            self.check(
                "cuDevicePrimaryCtxRetain",
                (self.primary_context_retain)(&raw mut context, device),
            )?;
        }
        Ok((Context(context), (major, minor)))
    }

    /// Runs `body` with `context` current on this thread, and puts back what was.
    fn within<R>(&self, context: Context, body: impl FnOnce() -> Result<R, GpuError>) -> Result<R, GpuError> {
        // SAFETY: the context was retained for good by `device`.
        self.check("cuCtxPushCurrent", unsafe { (self.context_push)(context.0) })?;
        let result = body();
        let mut popped = std::ptr::null_mut();
        // SAFETY: takes back what was pushed above.
        self.check("cuCtxPopCurrent", unsafe { (self.context_pop)(&raw mut popped) })?;
        result
    }

    /// Free and total bytes of the context's device.
    pub(super) fn memory(&self, context: Context) -> Result<(usize, usize), GpuError> {
        self.within(context, || {
            let (mut free, mut total) = (0, 0);
            // SAFETY: fills two live variables.
            let asked = unsafe { (self.memory_info)(&raw mut free, &raw mut total) };
            self.check("cuMemGetInfo", asked).map(|()| (free, total))
        })
    }

    /// Loads machine code into the context, for good, and finds functions in it by their names.
    pub(super) fn load(
        &self,
        context: Context,
        code: &[u8],
        names: &[&'static CStr],
    ) -> Result<Vec<Function>, GpuError> {
        self.within(context, || {
            let mut module = std::ptr::null_mut();
            // SAFETY: `code` is a whole cubin, which knows its own length.
            let loaded = unsafe { (self.module_load_data)(&raw mut module, code.as_ptr().cast()) };
            self.check("cuModuleLoadData", loaded)?;
            names
                .iter()
                .map(|name| {
                    let mut function = std::ptr::null_mut();
                    // SAFETY: the module was loaded above and is never unloaded; the name ends with zero.
                    let found =
                        unsafe { (self.module_get_function)(&raw mut function, module, name.as_ptr()) };
                    self.check("cuModuleGetFunction", found).map(|()| function)
                })
                .collect()
        })
    }

    /// Starts a kernel on `stream`.
    ///
    /// # Safety
    /// `arguments` are those that the kernel declares, each in the low bytes of a slot, and every address among them is of
    /// memory on the device that the kernel may use, in the order of that stream, which is the context's.
    pub(super) unsafe fn launch(
        &self,
        context: Context,
        function: Function,
        (grid, block): ([u32; 2], u32),
        arguments: &mut [u64],
        stream: Stream,
    ) -> Result<(), GpuError> {
        let mut places: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|slot| std::ptr::from_mut(slot).cast())
            .collect();
        self.within(context, || {
            // SAFETY: the driver reads each argument in its declared size from its slot before it returns; the rest is the
            // caller's word.
            let launched = unsafe {
                (self.launch_kernel)(
                    function,
                    grid[0],
                    grid[1],
                    1,
                    block,
                    1,
                    1,
                    0,
                    stream,
                    places.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            self.check("cuLaunchKernel", launched)
        })
    }
}
