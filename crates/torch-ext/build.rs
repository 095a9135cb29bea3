//! Compiles the C++ parts, and tells the linker where executables and tests find LibTorch at run time.
//!
//! torch-sys must be a direct dependency: only then does Cargo pass its `DEP_TCH_LIBTORCH_LIB` to this script.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Adds `folder` to the executable's search path for shared libraries.
fn search_in(folder: &Path) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}

/// Instruction sets for which the CPU kernels are compiled: name, and the compiler's options.
const VARIANTS: [(&str, &[&str]); 3] = [
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

/// Compiles shim/shim.cpp with the headers of the LibTorch whose libraries are in `linked`.
fn compile_shim(linked: &Path) {
    println!("cargo:rerun-if-changed=shim");
    let include = linked.with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("shim/shim.cpp")
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

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_kernels();
    let Some(linked) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        panic!("torch-sys did not say where LibTorch is; run `make setup`");
    };
    compile_shim(&linked);
    let origin = if cfg!(target_os = "macos") {
        "@executable_path"
    } else {
        "$ORIGIN"
    };
    let library = if cfg!(target_os = "macos") {
        "libtorch_cpu.dylib"
    } else {
        "libtorch_cpu.so"
    };
    // An installed tree first: bin/ beside lib/torch/lib/ and lib/nvidia/.
    search_in(&Path::new(origin).join("../lib/torch/lib"));
    // The folder of the file itself, since LibTorch looks for the CUDA runtime beside its real place; then the cache path
    // as `make setup` lays it, which on another machine may be a link to an existing PyTorch.
    let real = fs::canonicalize(linked.join(library))
        .ok()
        .and_then(|file| file.parent().map(Path::to_path_buf));
    let cache = linked
        .parent()
        .and_then(Path::parent)
        .map(|folder| folder.join("torch/lib"));
    if let Some(folder) = &real {
        search_in(folder);
    }
    if let Some(folder) = cache.filter(|folder| Some(folder) != real.as_ref()) {
        search_in(&folder);
    }
}
