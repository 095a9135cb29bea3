//! Tells the linker where this crate's executables and tests find LibTorch at run time.
//!
//! torch-sys must be a direct dependency: only then does Cargo pass its `DEP_TCH_LIBTORCH_LIB` to this script.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Adds `folder` to the executable's search path for shared libraries.
fn search_in(folder: &Path) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let Some(linked) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        panic!("torch-sys did not say where LibTorch is; run `make setup`");
    };
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
