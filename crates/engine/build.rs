//! Tells the linker where this crate's executables and tests find LibTorch at run time; `crates/torch-ext` found it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let paths = std::env::var_os("DEP_TUNESMITH_TORCH_EXT_RUN_PATHS")
        .expect("invariant: tunesmith-torch-ext is a direct dependency, and names them");
    for path in std::env::split_paths(&paths) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", path.display());
    }
}
