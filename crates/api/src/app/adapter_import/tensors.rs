//! `adapter_model.safetensors` of somebody else: compared with the base model, and written anew as float32.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use tunesmith_types::hyperparameters::{Hyperparameters, ModuleSelection};

use super::archive::Span;
use crate::app::adapter_check::all_finite;
use crate::app::model_check::ModelModules;
use crate::app::model_check::safetensors_header::{self, FloatType, Header};

/// Bytes of numbers in memory at a time.
const PIECE_BYTES: usize = 256 << 10;
const EMBEDDING: &str = "model.embed_tokens";

/// Reads the header. The outer error is the disk's.
pub(super) fn read_header(file: &mut File, span: Span) -> io::Result<Result<(Header, u64), String>> {
    let mut front = Vec::new();
    file.seek(SeekFrom::Start(span.offset))?;
    (&*file).take(span.bytes.min(8)).read_to_end(&mut front)?;
    let length = match safetensors_header::length(&front, span.bytes) {
        Ok(length) => length,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut text = Vec::new();
    (&*file).take(length).read_to_end(&mut text)?;
    let data = 8 + length;
    let header = safetensors_header::parse(&text, span.bytes - data);
    Ok(header.map(|header| (header, span.offset + data)))
}

/// Names and shapes that the adapter must have: A is `[rank, inputs]`, B is `[outputs, rank]`.
fn expected(hyperparameters: &Hyperparameters, model: &ModelModules) -> BTreeMap<String, [u64; 2]> {
    let selection = ModuleSelection::new(hyperparameters);
    let mut shapes = BTreeMap::new();
    for (name, module) in model.iter().filter(|(name, _)| selection.selects(name)) {
        let rank = u64::from(selection.rank(&name).get());
        let tensor = |side: &str| format!("base_model.model.{name}.lora_{side}");
        if name == EMBEDDING {
            // An embedding takes rows: its inputs are the vocabulary.
            shapes.insert(tensor("embedding_A"), [rank, module.outputs]);
            shapes.insert(tensor("embedding_B"), [module.inputs, rank]);
        } else {
            shapes.insert(tensor("A.weight"), [rank, module.inputs]);
            shapes.insert(tensor("B.weight"), [module.outputs, rank]);
        }
    }
    shapes
}

/// Every difference between what is there and what must be.
pub(super) fn compare(
    header: &Header,
    hyperparameters: &Hyperparameters,
    model: &ModelModules,
) -> Vec<String> {
    let expected = expected(hyperparameters, model);
    let mut problems = Vec::new();
    for (name, shape) in &expected {
        match header.shapes.get(name) {
            None => problems.push(format!("Tensor `{name}` is missing.")),
            Some(found) if found != shape => problems.push(format!(
                "Tensor `{name}` has the shape {found:?}; the base model needs {shape:?}."
            )),
            Some(_) => {}
        }
    }
    let strange = header.shapes.keys().filter(|name| !expected.contains_key(*name));
    problems.extend(strange.map(|name| {
        format!(
            "Tensor `{name:.160}` belongs to no layer of the base model that adapter_config.json targets."
        )
    }));
    problems
}

/// Writes all tensors as float32, sorted by name, into `target`; gives the names of those that are not finite.
pub(super) fn rewrite(
    source: &mut File,
    header: &Header,
    data: u64,
    target: &mut File,
) -> io::Result<Vec<String>> {
    let mut fields = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    for (name, shape) in &header.shapes {
        let bytes = 4 * shape.iter().product::<u64>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes]});
        fields.insert(name.clone(), entry);
        end += bytes;
    }
    let mut text = Value::Object(fields).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut target = BufWriter::with_capacity(PIECE_BYTES, target);
    target.write_all(&(text.len() as u64).to_le_bytes())?;
    target.write_all(text.as_bytes())?;
    let mut infinite = Vec::new();
    for (name, shape) in &header.shapes {
        let Some(&(float, offset)) = header.places.get(name) else {
            continue;
        };
        source.seek(SeekFrom::Start(data + offset))?;
        let bytes = shape.iter().product::<u64>() * float.width() as u64;
        if !copy(source, bytes, float, &mut target)? {
            infinite.push(name.clone());
        }
    }
    target.flush()?;
    Ok(infinite)
}

/// Copies one tensor as float32; whether all of it is finite.
pub(super) fn copy(
    source: &mut File,
    bytes: u64,
    float: FloatType,
    target: &mut impl Write,
) -> io::Result<bool> {
    let mut left = bytes;
    let mut piece = vec![0; PIECE_BYTES];
    let mut finite = true;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = &mut piece[..length];
        source.read_exact(piece)?;
        finite &= all_finite(float, piece);
        target.write_all(&single(float, piece))?;
        left -= length as u64;
    }
    Ok(finite)
}

/// Whole numbers of a file as float32, which holds each of them exactly.
pub(super) fn single(float: FloatType, bytes: &[u8]) -> Cow<'_, [u8]> {
    let pairs = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match float {
        FloatType::F32 => Cow::Borrowed(bytes),
        FloatType::F16 => pairs
            .flat_map(|pair| f16::from_le_bytes(pair).to_f32().to_le_bytes())
            .collect(),
        FloatType::Bf16 => pairs
            .flat_map(|pair| bf16::from_le_bytes(pair).to_f32().to_le_bytes())
            .collect(),
    }
}
