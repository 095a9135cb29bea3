//! GGUF, version 3: a head of named values, a table of tensors, and their bytes, each on a boundary of 32.

use std::io::{self, Write};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Where no `general.alignment` says otherwise.
pub(super) const ALIGNMENT: u64 = 32;
/// Numbers of the types of values.
pub(super) const TYPE_F32: u32 = 6;
pub(super) const TYPE_STRING: u32 = 8;

/// A value of the head.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum HeadValue {
    Text(String),
    Number(f32),
}

/// A matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// How the numbers of a file are stored, with GGML's number of the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Float32 = 0,
    Float16 = 1,
}

impl Stored {
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

/// Writes a file.
pub(super) fn write(
    file: &mut impl Write,
    head: &[(&str, HeadValue)],
    matrices: &[Matrix],
    stored: Stored,
) -> io::Result<()> {
    let mut table = Vec::new();
    table.extend(MAGIC);
    table.extend(VERSION.to_le_bytes());
    table.extend((matrices.len() as u64).to_le_bytes());
    table.extend((head.len() as u64).to_le_bytes());
    for (key, value) in head {
        text(&mut table, key);
        match value {
            HeadValue::Text(value) => {
                table.extend(TYPE_STRING.to_le_bytes());
                text(&mut table, value);
            }
            HeadValue::Number(value) => {
                table.extend(TYPE_F32.to_le_bytes());
                table.extend(value.to_le_bytes());
            }
        }
    }
    let mut offset: u64 = 0;
    for matrix in matrices {
        text(&mut table, &matrix.name);
        table.extend(2_u32.to_le_bytes());
        // The innermost dimension first.
        table.extend((matrix.columns as u64).to_le_bytes());
        table.extend((matrix.rows as u64).to_le_bytes());
        table.extend((stored as u32).to_le_bytes());
        table.extend(offset.to_le_bytes());
        offset += ((matrix.values.len() * stored.width()) as u64).next_multiple_of(ALIGNMENT);
    }
    pad(&mut table);
    file.write_all(&table)?;
    for matrix in matrices {
        let mut bytes = Vec::with_capacity(matrix.values.len() * stored.width());
        for value in &matrix.values {
            match stored {
                Stored::Float32 => bytes.extend(value.to_le_bytes()),
                Stored::Float16 => bytes.extend(half::f16::from_f32(*value).to_le_bytes()),
            }
        }
        pad(&mut bytes);
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    let length = (bytes.len() as u64).next_multiple_of(ALIGNMENT);
    bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
}

/// What [`read`] finds.
pub(super) type Contents = (Vec<(String, HeadValue)>, Vec<Matrix>);

/// Reads a file of our own back, for its verification.
pub(super) fn read(bytes: &[u8]) -> io::Result<Contents> {
    let mut reader = Reader { bytes, place: 0 };
    if reader.take(4)? != MAGIC || reader.u32()? != VERSION {
        return Err(invalid("no GGUF file of version 3"));
    }
    let (tensors, values) = (reader.u64()?, reader.u64()?);
    let mut head = Vec::new();
    for _ in 0..values {
        let key = reader.text()?;
        let value = match reader.u32()? {
            TYPE_STRING => HeadValue::Text(reader.text()?),
            TYPE_F32 => HeadValue::Number(f32::from_bits(reader.u32()?)),
            _ => return Err(invalid("a value of a type that was not written")),
        };
        head.push((key, value));
    }
    let mut table = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        if reader.u32()? != 2 {
            return Err(invalid("a tensor that is no matrix"));
        }
        let (columns, rows) = (reader.u64()?, reader.u64()?);
        table.push((name, columns, rows, reader.u32()?, reader.u64()?));
    }
    let start = (reader.place as u64).next_multiple_of(ALIGNMENT);
    let mut matrices = Vec::new();
    for (name, columns, rows, stored, offset) in table {
        let width = match stored {
            0 => 4,
            1 => 2,
            _ => return Err(invalid("numbers of a type that was not written")),
        };
        let size = |number: u64| usize::try_from(number).map_err(|_| invalid("a size that is too large"));
        let (columns, rows) = (size(columns)?, size(rows)?);
        reader.place = size(start + offset)?;
        let count = columns
            .checked_mul(rows)
            .and_then(|count| count.checked_mul(width));
        let bytes = reader.take(count.ok_or_else(|| invalid("a size that is too large"))?)?;
        let values = bytes.chunks_exact(width).map(|number| match *number {
            [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        });
        matrices.push(Matrix {
            name,
            rows,
            columns,
            values: values.collect(),
        });
    }
    Ok((head, matrices))
}

fn invalid(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

struct Reader<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let end = self.place.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.place..end));
        let taken = taken.ok_or_else(|| invalid("the file ends too early"))?;
        self.place += length;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?.try_into();
        Ok(u32::from_le_bytes(
            bytes.expect("invariant: four bytes were taken"),
        ))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let bytes = self.take(8)?.try_into();
        Ok(u64::from_le_bytes(
            bytes.expect("invariant: eight bytes were taken"),
        ))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.u64()?).map_err(|_| invalid("a text that is too long"))?;
        String::from_utf8(self.take(length)?.to_owned()).map_err(|_| invalid("a text that is not UTF-8"))
    }
}
