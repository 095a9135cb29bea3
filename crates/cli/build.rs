//! Lists the bundled base models (`models/<name>/`) for `include_bytes!`, so that the executable carries them.

use std::{env, fs, path::Path};

/// What belongs to a base model; scripts and notes beside it do not.
const ENDINGS: [&str; 4] = [".json", ".safetensors", ".jinja", ".txt"];

fn main() {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let models = Path::new(&manifest).join("../../models");
    println!("cargo:rerun-if-changed={}", models.display());
    let mut source = String::from("pub(crate) static MODELS: &[BundledModel] = &[\n");
    for folder in sorted(&models) {
        if !folder.join("config.json").is_file() || !has_weights(&folder) {
            continue;
        }
        println!("cargo:rerun-if-changed={}", folder.display());
        source += &format!("    BundledModel {{ name: {:?}, files: &[\n", file_name(&folder));
        for file in sorted(&folder) {
            let name = file_name(&file);
            if file.is_file() && (ENDINGS.iter().any(|ending| name.ends_with(ending)) || name == "README.md")
            {
                let path = fs::canonicalize(&file).expect("a listed file exists");
                println!("cargo:rerun-if-changed={}", path.display());
                source += &format!("        ({name:?}, include_bytes!({path:?})),\n");
            }
        }
        source += "    ] },\n";
    }
    source += "];\n";
    let output = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("bundled_models.rs");
    fs::write(output, source).expect("OUT_DIR can be written");
}

fn sorted(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn has_weights(folder: &Path) -> bool {
    sorted(folder)
        .iter()
        .any(|file| file_name(file).ends_with(".safetensors"))
}
