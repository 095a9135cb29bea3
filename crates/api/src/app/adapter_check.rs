//! Whether stored files are a PEFT adapter of the right rank with finite numbers. Reads them as a stream.

use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tunesmith_blobs::{BlobError, Blobs};
use tunesmith_store::files::StoredFile;
use tunesmith_types::probe::Probe;

use super::model_check::safetensors_header::{self, FloatType, MOST_HEADER_BYTES};

/// The files of a PEFT folder that make the adapter.
pub(super) const CONFIG: &str = "adapter_config.json";
/// As [`CONFIG`].
pub(super) const TENSORS: &str = "adapter_model.safetensors";
/// Longest adapter_config.json.
pub(super) const MOST_CONFIG_BYTES: u64 = 1 << 20;
/// What the names of an adapter's tensors have in them, those of embeddings too.
const LORA_PARTS: [&str; 4] = [".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B"];

/// What is wrong with the files; the object store's own errors are apart.
pub(super) type Checked = Result<Result<(), String>, BlobError>;

#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: u32,
}

/// Checks adapter_config.json.
pub(super) async fn check_config(blobs: &Blobs, file: &StoredFile, rank: u32) -> Checked {
    let text = blobs
        .get_bytes(&file.key.parse().map_err(BlobError::Key)?, MOST_CONFIG_BYTES)
        .await?;
    if hex::encode(Sha256::digest(&text)) != file.sha256 {
        return Ok(Err(damaged(file)));
    }
    Ok(match serde_json::from_slice::<AdapterConfig>(&text) {
        Err(error) => Err(format!("{} is not readable: {error}.", file.name)),
        Ok(config) if config.peft_type != "LORA" || config.r != rank => Err(format!(
            "{} is of type {} and rank {}, not LORA and {rank}.",
            file.name, config.peft_type, config.r
        )),
        Ok(_) => Ok(()),
    })
}

/// Checks every byte of adapter_model.safetensors.
pub(super) async fn check_tensors(blobs: &Blobs, file: &StoredFile) -> Checked {
    let mut body = blobs
        .get_stream(&file.key.parse().map_err(BlobError::Key)?, None)
        .await?;
    let mut hash = Sha256::new();
    let mut scan = Scan::new(file.bytes);
    let mut length = 0;
    while let Some(piece) = body.stream.next().await {
        let piece = piece?;
        hash.update(&piece);
        length += piece.len() as u64;
        if let Err(reason) = scan.take(&piece) {
            return Ok(Err(format!("{}: {reason}", file.name)));
        }
    }
    let whole = length == file.bytes && hex::encode(hash.finalize()) == file.sha256;
    Ok(if whole && scan.is_done() {
        Ok(())
    } else {
        Err(damaged(file))
    })
}

/// The golden probes of a checkpoint, or what is wrong with them.
pub(super) async fn read_probes(
    blobs: &Blobs,
    file: &StoredFile,
) -> Result<Result<Vec<Probe>, String>, BlobError> {
    let key = file.key.parse().map_err(BlobError::Key)?;
    let text = blobs.get_bytes(&key, Probe::MOST_BYTES).await?;
    if hex::encode(Sha256::digest(&text)) != file.sha256 {
        return Ok(Err(damaged(file)));
    }
    Ok(Probe::parse_list(&text).map_err(|error| format!("{}: {error}.", file.name)))
}

fn damaged(file: &StoredFile) -> String {
    format!("{} is not as it was written.", file.name)
}

/// A safetensors file on its way: first its header, then its numbers.
struct Scan {
    file_bytes: u64,
    /// What came and is not understood yet: the beginning of the header, or of a number.
    held: Vec<u8>,
    /// The tensors that are to come, the next one last; none before the header is there.
    layout: Option<Vec<(FloatType, u64)>>,
}

impl Scan {
    const fn new(file_bytes: u64) -> Self {
        Self {
            file_bytes,
            held: Vec::new(),
            layout: None,
        }
    }

    fn is_done(&self) -> bool {
        self.held.is_empty() && self.layout.as_ref().is_some_and(Vec::is_empty)
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        self.held.extend_from_slice(piece);
        if self.layout.is_none() && !self.read_header()? {
            return Ok(());
        }
        self.read_numbers()
    }

    /// Whether the header is there.
    fn read_header(&mut self) -> Result<bool, String> {
        const FRONT: usize = size_of::<u64>();
        let Some(front) = self.held.get(..FRONT) else {
            return Ok(false);
        };
        let length = safetensors_header::length(front, self.file_bytes)?;
        debug_assert!(length <= MOST_HEADER_BYTES);
        let end = FRONT + usize::try_from(length).unwrap_or(usize::MAX - FRONT);
        let Some(text) = self.held.get(FRONT..end) else {
            return Ok(false);
        };
        let header = safetensors_header::parse(text, self.file_bytes - end as u64)?;
        if header.shapes.is_empty() {
            return Err("it has no tensors.".to_owned());
        }
        let strange = header
            .shapes
            .keys()
            .find(|name| !LORA_PARTS.iter().any(|part| name.contains(part)));
        if let Some(name) = strange {
            return Err(format!("tensor `{name}` is no part of a LoRA adapter."));
        }
        let mut layout = header.layout;
        layout.reverse();
        self.layout = Some(layout);
        self.held.drain(..end);
        Ok(true)
    }

    fn read_numbers(&mut self) -> Result<(), String> {
        let Some(layout) = &mut self.layout else {
            return Ok(());
        };
        let mut read = 0;
        while let Some((float, left)) = layout.last_mut() {
            let here = self.held.len() - read;
            let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
            let numbers = wanted - wanted % float.width();
            if !all_finite(*float, &self.held[read..read + numbers]) {
                return Err("it holds a number that is not finite.".to_owned());
            }
            read += numbers;
            *left -= numbers as u64;
            if *left > 0 {
                break;
            }
            layout.pop();
        }
        self.held.drain(..read);
        Ok(())
    }
}

/// A number is infinite or not a number where all bits of its exponent are set.
pub(super) fn all_finite(float: FloatType, bytes: &[u8]) -> bool {
    match float {
        FloatType::F32 => bytes
            .chunks_exact(4)
            .all(|b| b[3] & 0x7f != 0x7f || b[2] & 0x80 == 0),
        FloatType::Bf16 => bytes
            .chunks_exact(2)
            .all(|b| b[1] & 0x7f != 0x7f || b[0] & 0x80 == 0),
        FloatType::F16 => bytes.chunks_exact(2).all(|b| b[1] & 0x7c != 0x7c),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file
    }

    /// The answer to the file in pieces of every length.
    fn scan(file: &[u8]) -> Result<bool, String> {
        let mut answers = (1..=file.len()).map(|length| {
            let mut scan = Scan::new(file.len() as u64);
            for piece in file.chunks(length) {
                scan.take(piece)?;
            }
            Ok(scan.is_done())
        });
        let first = answers.next().unwrap();
        assert!(answers.all(|answer| answer == first));
        first
    }

    const HEADER: &str = r#"{"q.lora_A.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"q.lora_B.weight":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}"#;

    fn numbers(first: f32, last: u16) -> Vec<u8> {
        let mut data = first.to_le_bytes().to_vec();
        data.extend_from_slice(&1.5_f32.to_le_bytes());
        for number in [0x3f80, 0xbf80, last] {
            data.extend_from_slice(&u16::to_le_bytes(number));
        }
        data
    }

    #[test]
    fn finite_numbers_pass_however_the_file_is_cut() {
        assert_eq!(scan(&file(HEADER, &numbers(f32::MAX, 0x7f7f))), Ok(true));
    }

    #[test]
    fn what_is_not_finite_or_no_adapter_is_found() {
        for first in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert!(scan(&file(HEADER, &numbers(first, 0))).is_err());
        }
        for last in [0x7f80, 0xff80, 0x7fc0] {
            assert!(scan(&file(HEADER, &numbers(1.0, last))).is_err());
        }
        assert!(!all_finite(FloatType::F16, &0x7c00_u16.to_le_bytes()));
        assert!(all_finite(FloatType::F16, &0x7bff_u16.to_le_bytes()));
        let other = HEADER.replace("q.lora_A.", "q.weights.");
        assert!(scan(&file(&other, &numbers(1.0, 0))).is_err());
        assert!(scan(&file("{}", &[])).is_err());
    }
}
