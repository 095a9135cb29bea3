//! The GGUF form: a LoRA file as llama.cpp's `convert_lora_to_gguf.py` makes it. llama.cpp multiplies every module by
//! `alpha / rank` with one alpha for all, so what rsLoRA and patterns change is folded into `B`.

use std::{fs, io::BufWriter, path::Path};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tunesmith_types::states::ExportDtype;

use super::{
    Built, Sources, blocking,
    gguf_file::{self, HeadValue, Matrix, Stored},
};
use crate::failure::Failure;

const FILE: &str = "adapter.gguf";
/// Most that storing a number as float16 may change `s · B A`, as a share of its largest value.
const TOLERANCE_F16: f64 = 4e-3;
const TOLERANCE_F32: f64 = 1e-5;

/// Modules of a block, as PEFT names them, and llama.cpp's names.
const MODULES: [(&str, &str); 9] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
];

/// What the base model's config.json says that matters here.
#[derive(Debug, Clone)]
struct BaseShape {
    architecture: &'static str,
    heads: usize,
    kv_heads: usize,
    is_tied: bool,
}

impl BaseShape {
    fn of(config: &Value) -> Result<Self, Failure> {
        let class = config["architectures"][0].as_str().unwrap_or_default();
        let architecture = match class {
            "LlamaForCausalLM" | "MistralForCausalLM" => "llama",
            "Qwen2ForCausalLM" => "qwen2",
            "Qwen3ForCausalLM" => "qwen3",
            "Gemma2ForCausalLM" => "gemma2",
            "Gemma3ForCausalLM" => "gemma3",
            "Phi3ForCausalLM" => "phi3",
            _ => return Err(refused(format!("the architecture `{class}` has no name there"))),
        };
        let number = |field: &str| {
            config[field]
                .as_u64()
                .and_then(|value| usize::try_from(value).ok())
        };
        let heads = number("num_attention_heads").unwrap_or(0);
        Ok(Self {
            architecture,
            heads,
            kv_heads: number("num_key_value_heads").unwrap_or(heads),
            // Gemma's head is its embedding unless it says otherwise.
            is_tied: config["tie_word_embeddings"]
                .as_bool()
                .unwrap_or(architecture.starts_with("gemma")),
        })
    }
}

#[derive(Debug, Deserialize)]
struct AdapterConfig {
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    alpha_pattern: Option<Map<String, Value>>,
}

/// A module's matrices as PEFT has them.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    /// `model.layers.0.self_attn.q_proj`
    module: String,
    /// `[rank, in]`
    a: Matrix,
    /// `[out, rank]`
    b: Matrix,
    scale: f64,
}

pub(super) async fn build(sources: &Sources<'_>) -> Result<Built, Failure> {
    let shape = BaseShape::of(&sources.base.config)?;
    let stored = match sources.claimed.dtype {
        ExportDtype::Auto | ExportDtype::Float32 => Stored::Float32,
        ExportDtype::Float16 => Stored::Float16,
        ExportDtype::Bfloat16 => {
            return Err(refused(
                "bfloat16 is not offered; take float32 or float16".to_owned(),
            ));
        }
    };
    let version = &sources.claimed.version;
    let name = format!("{}@{}", version.adapter, version.number);
    let (adapter, out) = (sources.adapter(), sources.out());
    let verification = blocking(move || {
        let disk = |error: std::io::Error| Failure::disk("write a GGUF file", &error);
        fs::create_dir(&out).map_err(disk)?;
        convert(&adapter, &out.join(FILE), &shape, &name, stored)
    })
    .await?;
    Ok(Built {
        names: vec![FILE.to_owned()],
        verification,
    })
}

fn convert(
    adapter: &Path,
    path: &Path,
    shape: &BaseShape,
    name: &str,
    stored: Stored,
) -> Result<Value, Failure> {
    let disk = |error: std::io::Error| Failure::disk("write a GGUF file", &error);
    let pairs = read_pairs(adapter)?;
    let (alpha, matrices) = matrices(&pairs, shape)?;
    let head = [
        (
            "general.architecture",
            HeadValue::Text(shape.architecture.to_owned()),
        ),
        ("general.type", HeadValue::Text("adapter".to_owned())),
        ("general.name", HeadValue::Text(name.to_owned())),
        ("adapter.type", HeadValue::Text("lora".to_owned())),
        ("adapter.lora.alpha", HeadValue::Number(alpha)),
    ];
    let mut file = BufWriter::new(fs::File::create(path).map_err(disk)?);
    gguf_file::write(&mut file, &head, &matrices, stored).map_err(disk)?;
    file.into_inner().map_err(|error| disk(error.into_error()))?;
    let (_, read) = gguf_file::read(&fs::read(path).map_err(disk)?).map_err(disk)?;
    let difference = largest_difference(&pairs, &read, f64::from(alpha), shape)?;
    let tolerance = match stored {
        Stored::Float32 => TOLERANCE_F32,
        Stored::Float16 => TOLERANCE_F16,
    };
    // Also where one of them is not a number.
    if difference.is_nan() || difference > tolerance {
        let message = format!(
            "The GGUF file changes the adapter by {difference:e} of its largest value, more than {tolerance:e}; take \
             float32."
        );
        return Err(Failure::last("export_differs", message));
    }
    Ok(json!({
        "method": "the file was read back: s · B A of every module, by llama.cpp's rule, against the version's",
        "modules": pairs.len(),
        "max_relative_difference": difference,
        "tolerance": tolerance,
    }))
}

fn refused(reason: String) -> Failure {
    Failure::last(
        "gguf_unsupported",
        format!("The version cannot be exported as GGUF: {reason}."),
    )
}

fn invalid(error: &dyn std::fmt::Display) -> Failure {
    Failure::last(
        "adapter_invalid",
        format!("The version's files cannot be read: {error}."),
    )
}

fn read_pairs(folder: &Path) -> Result<Vec<Pair>, Failure> {
    let read =
        |name: &str| fs::read(folder.join(name)).map_err(|error| Failure::disk("read the adapter", &error));
    let config: AdapterConfig =
        serde_json::from_slice(&read("adapter_config.json")?).map_err(|error| invalid(&error))?;
    let bytes = read("adapter_model.safetensors")?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(&error))?;
    let mut names: Vec<&str> = tensors.names();
    names.sort_unstable();
    let mut pairs = Vec::new();
    for name in names {
        let (stem, b_name) = match (
            name.strip_suffix(".lora_A.weight"),
            name.strip_suffix(".lora_embedding_A"),
        ) {
            (Some(stem), _) => (stem, format!("{stem}.lora_B.weight")),
            (_, Some(stem)) => (stem, format!("{stem}.lora_embedding_B")),
            _ => continue,
        };
        let module = stem.strip_prefix("base_model.model.").unwrap_or(stem).to_owned();
        let (a, b) = (matrix(&tensors, name)?, matrix(&tensors, &b_name)?);
        if a.rows != b.columns || a.rows == 0 {
            return Err(invalid(&format!(
                "the matrices of {module} do not fit each other"
            )));
        }
        let rank = a.rows as f64;
        let alpha = alpha_of(&config, &module)?;
        let scale = alpha / if config.use_rslora { rank.sqrt() } else { rank };
        pairs.push(Pair { module, a, b, scale });
    }
    if pairs.is_empty() {
        return Err(invalid(&"there is no LoRA matrix"));
    }
    Ok(pairs)
}

fn matrix(tensors: &SafeTensors<'_>, name: &str) -> Result<Matrix, Failure> {
    let tensor = tensors.tensor(name).map_err(|error| invalid(&error))?;
    let &[rows, columns] = tensor.shape() else {
        return Err(invalid(&format!("{name} is no matrix")));
    };
    let data = tensor.data();
    let values = match tensor.dtype() {
        Dtype::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
        Dtype::F16 => data
            .as_chunks()
            .0
            .iter()
            .map(|bytes| half::f16::from_le_bytes(*bytes).to_f32())
            .collect(),
        Dtype::BF16 => data
            .as_chunks()
            .0
            .iter()
            .map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32())
            .collect(),
        other => return Err(invalid(&format!("{name} has numbers of type {other:?}"))),
    };
    Ok(Matrix {
        name: name.to_owned(),
        rows,
        columns,
        values,
    })
}

/// PEFT takes the keys of a pattern as regular expressions on the end of a module's name. Plain names are enough here.
fn alpha_of(config: &AdapterConfig, module: &str) -> Result<f64, Failure> {
    for (key, value) in config.alpha_pattern.iter().flatten() {
        if !key
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "._".contains(letter))
        {
            return Err(refused(format!(
                "`alpha_pattern` has the regular expression `{key}`; only names of modules are understood"
            )));
        }
        let is_meant = module
            .strip_suffix(key.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if is_meant {
            return value
                .as_f64()
                .ok_or_else(|| invalid(&"alpha_pattern has no numbers"));
        }
    }
    Ok(config.lora_alpha)
}

/// The alpha of the file, and its matrices.
fn matrices(pairs: &[Pair], shape: &BaseShape) -> Result<(f32, Vec<Matrix>), Failure> {
    let rank = |pair: &Pair| pair.a.rows as f64;
    // llama.cpp takes 0 for "no alpha", that is a scale of 1.
    let alpha = match (pairs[0].scale * rank(&pairs[0])) as f32 {
        0.0 => 1.0,
        alpha => alpha,
    };
    let mut matrices = Vec::new();
    for pair in pairs {
        let name = gguf_name(&pair.module, shape)?;
        let factor = (pair.scale * rank(pair) / f64::from(alpha)) as f32;
        let mut b = pair.b.clone();
        if (factor - 1.0).abs() > 1e-6 {
            b.values.iter_mut().for_each(|value| *value *= factor);
        }
        if let Some(heads) = permuted_heads(&pair.module, shape) {
            b = permute(&b, heads)?;
        }
        let mut a = pair.a.clone();
        if pair.module == "model.embed_tokens" {
            a = transpose(&a);
        }
        a.name = format!("{name}.weight.lora_a");
        b.name = format!("{name}.weight.lora_b");
        matrices.extend([a, b]);
    }
    Ok((alpha, matrices))
}

fn gguf_name(module: &str, shape: &BaseShape) -> Result<String, Failure> {
    if module == "lm_head" || module == "model.embed_tokens" {
        if shape.is_tied {
            let reason =
                "it adapts the embedding or the output head, which are one tensor in this base model"
                    .to_owned();
            return Err(refused(reason));
        }
        return Ok(if module == "lm_head" {
            "output"
        } else {
            "token_embd"
        }
        .to_owned());
    }
    let named = module.strip_prefix("model.layers.").and_then(|rest| {
        let (layer, path) = rest.split_once('.')?;
        let layer: u32 = layer.parse().ok()?;
        let (_, name) = MODULES.iter().find(|(known, _)| *known == path)?;
        Some(format!("blk.{layer}.{name}"))
    });
    named.ok_or_else(|| refused(format!("the module `{module}` has no name there")))
}

/// llama.cpp keeps the two halves of each head of a Llama's queries and keys interleaved.
fn permuted_heads(module: &str, shape: &BaseShape) -> Option<usize> {
    if shape.architecture != "llama" {
        return None;
    }
    if module.ends_with(".q_proj") {
        Some(shape.heads)
    } else if module.ends_with(".k_proj") {
        Some(shape.kv_heads)
    } else {
        None
    }
}

/// `[heads, 2, half, rank]` becomes `[heads, half, 2, rank]`.
fn permute(matrix: &Matrix, heads: usize) -> Result<Matrix, Failure> {
    if heads == 0 || !matrix.rows.is_multiple_of(2 * heads) {
        return Err(refused(format!(
            "{} rows cannot be divided into {heads} heads",
            matrix.rows
        )));
    }
    let half = matrix.rows / heads / 2;
    let mut values = Vec::with_capacity(matrix.values.len());
    for row in 0..matrix.rows {
        let (head, within) = (row / (2 * half), row % (2 * half));
        let from = head * 2 * half + (within % 2) * half + within / 2;
        values.extend(&matrix.values[from * matrix.columns..(from + 1) * matrix.columns]);
    }
    Ok(Matrix {
        values,
        ..matrix.clone()
    })
}

fn transpose(matrix: &Matrix) -> Matrix {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let values = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    Matrix {
        name: matrix.name.clone(),
        rows: columns,
        columns: rows,
        values: values.map(|place| matrix.values[place]).collect(),
    }
}

/// Rows and columns of `s · B A` that are compared for each module; all of a large one would take minutes.
const MOST_ROWS: usize = 64;

/// `|s · B A|` of the file, by llama.cpp's rule, against the version's: the largest difference over the largest value, of
/// up to 64 rows and columns of each module, spread evenly.
fn largest_difference(
    pairs: &[Pair],
    read: &[Matrix],
    alpha: f64,
    shape: &BaseShape,
) -> Result<f64, Failure> {
    let missing = || Failure::retryable("export_differs", "A module is missing from the GGUF file.");
    let mut largest: f64 = 0.0;
    for pair in pairs {
        let name = gguf_name(&pair.module, shape)?;
        let find = |side: &str| {
            let wanted = format!("{name}.weight.{side}");
            read.iter()
                .find(|matrix| matrix.name == wanted)
                .ok_or_else(missing)
        };
        let (mut a, b) = (find("lora_a")?.clone(), find("lora_b")?);
        if pair.module == "model.embed_tokens" {
            a = transpose(&a);
        }
        let (rows, columns) = (spread(b.rows), spread(a.columns));
        let scale = alpha / b.columns as f64;
        let (mut difference, mut value): (f64, f64) = (0.0, 0.0);
        for &row in &rows {
            let original = match permuted_heads(&pair.module, shape) {
                Some(heads) => {
                    let half = b.rows / heads / 2;
                    row / (2 * half) * 2 * half + row % 2 * half + row % (2 * half) / 2
                }
                None => row,
            };
            for &column in &columns {
                let found = scale * product(b, &a, row, column);
                let wanted = pair.scale * product(&pair.b, &pair.a, original, column);
                difference = difference.max((found - wanted).abs());
                if !(found - wanted).is_finite() {
                    return Ok(f64::NAN);
                }
                value = value.max(wanted.abs());
            }
        }
        largest = largest.max(difference / value.max(f64::MIN_POSITIVE));
    }
    Ok(largest)
}

fn spread(count: usize) -> Vec<usize> {
    let taken = count.min(MOST_ROWS);
    (0..taken).map(|index| index * count / taken).collect()
}

fn product(b: &Matrix, a: &Matrix, row: usize, column: usize) -> f64 {
    let row = &b.values[row * b.columns..(row + 1) * b.columns];
    let terms = row.iter().enumerate();
    terms
        .map(|(place, value)| f64::from(*value) * f64::from(a.values[place * a.columns + column]))
        .sum()
}

#[cfg(test)]
mod tests;
