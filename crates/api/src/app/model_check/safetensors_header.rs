//! The header of a safetensors file: its tensors' names and shapes, under limits of ours.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Longest header that is read.
pub(in crate::app) const MOST_HEADER_BYTES: u64 = 8 << 20;
const MOST_TENSORS: usize = 65_536;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) struct Header {
    /// Shapes by name.
    pub(in crate::app) shapes: BTreeMap<String, Vec<u64>>,
    /// Type and bytes of each tensor, in the order of the file.
    pub(in crate::app) layout: Vec<(FloatType, u64)>,
    /// Type of each tensor, and where its bytes begin after the header, by name.
    pub(in crate::app) places: BTreeMap<String, (FloatType, u64)>,
}

/// The types of numbers that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub(in crate::app) const fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor(Tensor),
    Metadata(#[expect(dead_code, reason = "read for its form only")] BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Length of the header, from the first 8 bytes of a file of `file_bytes` bytes.
pub(in crate::app) fn length(front: &[u8], file_bytes: u64) -> Result<u64, String> {
    let front: [u8; 8] = front
        .try_into()
        .map_err(|_| "it is too short for a safetensors file.".to_owned())?;
    let length = u64::from_le_bytes(front);
    if !(2..=MOST_HEADER_BYTES).contains(&length) || length > file_bytes - 8 {
        return Err("it does not begin with the header of a safetensors file.".to_owned());
    }
    Ok(length)
}

/// Parses a header in front of `data_bytes` bytes of data: every byte must belong to exactly one tensor.
pub(in crate::app) fn parse(text: &[u8], data_bytes: u64) -> Result<Header, String> {
    let entries: BTreeMap<String, Entry> =
        serde_json::from_slice(text).map_err(|error| format!("its header is not readable: {error}."))?;
    if entries.len() > MOST_TENSORS {
        return Err(format!("it has more than {MOST_TENSORS} tensors."));
    }
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, entry) in entries {
        match entry {
            Entry::Tensor(tensor) => tensors.push((name, tensor)),
            Entry::Metadata(_) if name == "__metadata__" => {}
            Entry::Metadata(_) => return Err(format!("its entry `{name}` is no tensor.")),
        }
    }
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end = 0;
    let mut layout = Vec::with_capacity(tensors.len());
    let mut places = BTreeMap::new();
    for (name, tensor) in &tensors {
        let (float, bytes) = bytes_of(name, tensor)?;
        if tensor.data_offsets.0 != end || tensor.data_offsets.1 != end + bytes {
            return Err(format!(
                "the bytes of tensor `{name}` overlap others or leave a gap."
            ));
        }
        layout.push((float, bytes));
        places.insert(name.clone(), (float, end));
        end += bytes;
    }
    if end != data_bytes {
        return Err(format!(
            "its tensors take {end} bytes, but {data_bytes} follow the header; it seems to be cut off."
        ));
    }
    Ok(Header {
        shapes: tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.shape))
            .collect(),
        layout,
        places,
    })
}

fn bytes_of(name: &str, tensor: &Tensor) -> Result<(FloatType, u64), String> {
    let float = FloatType::parse(&tensor.dtype).ok_or_else(|| {
        format!(
            "tensor `{name}` has the type {}; F32, F16 and BF16 can be read.",
            tensor.dtype
        )
    })?;
    let bytes = tensor
        .shape
        .iter()
        .try_fold(float.width() as u64, |product, size| product.checked_mul(*size));
    bytes
        .filter(|bytes| *bytes <= 1 << 48)
        .map(|bytes| (float, bytes))
        .ok_or_else(|| format!("tensor `{name}` is too large."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_good_header_is_read() {
        let text = br#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
        let header = parse(text, 14).unwrap();
        assert_eq!(header.shapes["a"], [2, 1]);
        assert_eq!(header.shapes["b"], [3]);
    }

    #[test]
    fn damaged_headers_are_refused() {
        let tensor =
            |offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
        let table = [
            ("not json", "{".to_owned(), 8),
            ("cut off", tensor("[0,8]"), 7),
            ("gap", tensor("[1,9]"), 9),
            ("wrong length", tensor("[0,9]"), 9),
            ("strange type", r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}"#.to_owned(), 8),
            (
                "overflow",
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,9],"data_offsets":[0,8]}}"#.to_owned(),
                8,
            ),
            (
                "overlap",
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
                    .to_owned(),
                8,
            ),
            ("no tensor", r#"{"a":{"dtype":"F32"}}"#.to_owned(), 0),
        ];
        for (what, text, data_bytes) in table {
            assert!(parse(text.as_bytes(), data_bytes).is_err(), "{what}");
        }
        assert!(length(&[0; 7], 7).is_err());
        assert!(length(&u64::MAX.to_le_bytes(), 100).is_err());
        assert_eq!(length(&16_u64.to_le_bytes(), 100), Ok(16));
    }
}
