//! Compiles the C++ parts, and finds out where executables and tests find LibTorch at run time: for this crate's own, and
//! as `DEP_TUNESMITH_TORCH_EXT_RUN_PATHS` for the build scripts of the crates that depend on it directly.
//!
//! torch-sys must be a direct dependency: only then does Cargo pass its `DEP_TCH_LIBTORCH_LIB` to this script.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Instruction sets for which the CPU kernels are compiled: name, and the compiler's options.
const VARIANTS: [(&str, &[&str]); 4] = [
    ("baseline", &[]),
    ("avx2", &["-mavx2", "-mfma"]),
    (
        "avx512",
        &[
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mfma",
            "-mprefer-vector-width=512",
        ],
    ),
    (
        "avx512_bf16",
        &[
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512bf16",
            "-mfma",
            "-mprefer-vector-width=512",
        ],
    ),
];

/// Compiles kernels/kernels.cpp once per instruction set; src/kernels/table.rs picks one at run time.
fn compile_kernels() {
    println!("cargo:rerun-if-changed=kernels");
    let is_x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let is_mac = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "macos");
    for (name, options) in VARIANTS.iter().filter(|(name, _)| is_x86 || *name == "baseline") {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .file("kernels/kernels.cpp")
            .opt_level(3);
        build.define("TABLE_NAME", format!("tunesmith_kernels_{name}").as_str());
        for option in ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
            .iter()
            .chain(*options)
        {
            build.flag(option);
        }
        // Vectors wider than the processor's stay within this file, so no other compiler needs to agree on how to pass them.
        build.flag_if_supported("-Wno-psabi");
        // Apple's compiler has no OpenMP: there the kernels run on one thread.
        if !is_mac {
            build.flag("-fopenmp");
        }
        build.compile(&format!("tunesmith_kernels_{name}"));
    }
    if !is_mac {
        // The OpenMP library whose file name LibTorch asks for too, so that the process has one pool of threads.
        println!("cargo:rustc-link-lib=dylib=gomp");
    }
}

/// Compiles cuda/ for the processor, for tests of those kernels: some dozens of kilobytes.
fn compile_emulator() {
    println!("cargo:rerun-if-changed=cuda");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .file("cuda/emulator/emulator.cpp")
            .opt_level(1)
            // In CUDA these comparisons are meant.
            .flag("-Wno-sign-compare")
            .compile("tunesmith_emulator");
    }
}

/// Compiles shim/ with the headers of the LibTorch whose libraries are in `linked`.
fn compile_shim(linked: &Path) {
    println!("cargo:rerun-if-changed=shim");
    let include = linked.with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .files(["shim/shim.cpp", "shim/cuda_graph.cpp"])
        .opt_level(2)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // Not this crate's to mend: no warnings from LibTorch's headers.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!(
            "-isystem{}",
            include.join("torch/csrc/api/include").display()
        ))
        .compile("tunesmith_shim");
}

/// The folders in which executables look for LibTorch, in this order; it was linked from `linked`.
fn run_paths(linked: &Path) -> Vec<PathBuf> {
    let (origin, library) = if cfg!(target_os = "macos") {
        ("@executable_path", "libtorch_cpu.dylib")
    } else {
        ("$ORIGIN", "libtorch_cpu.so")
    };
    // An installed tree first: bin/ beside lib/torch/lib/ and lib/nvidia/.
    let installed = Path::new(origin).join("../lib/torch/lib");
    // The folder of the file itself, since LibTorch looks for the CUDA runtime beside its real place; then the cache path
    // as `make setup` lays it, which on another machine may be a link to an existing PyTorch.
    let real = fs::canonicalize(linked.join(library))
        .ok()
        .and_then(|file| file.parent().map(Path::to_path_buf));
    let cache = linked
        .parent()
        .and_then(Path::parent)
        .map(|folder| folder.join("torch/lib"))
        .filter(|folder| Some(folder) != real.as_ref());
    [Some(installed), real, cache].into_iter().flatten().collect()
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_kernels();
    compile_emulator();
    let Some(linked) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        panic!("torch-sys did not say where LibTorch is; run `make setup`");
    };
    compile_shim(&linked);
    let paths = run_paths(&linked);
    for path in &paths {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", path.display());
    }
    let joined = env::join_paths(&paths).expect("invariant: a search path can hold no colon anyway");
    println!("cargo::metadata=run_paths={}", joined.display());
}
