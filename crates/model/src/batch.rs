//! Documents of any length laid end to end.

use tch::{Device, Kind, Tensor};

use crate::attention::{Attend, AttentionShape, causal_attention};
use crate::error::ModelError;

/// A batch without padding: the tokens of all documents one after the other. Positions restart with each document, and
/// no document sees another.
///
/// Inside, documents are sorted by length so that those of equal length share one attention call; what
/// [`crate::CausalLm::hidden`] returns is in the caller's order.
#[derive(Debug)]
pub struct PackedBatch {
    /// int64 `[total]`, sorted.
    pub(crate) tokens: Tensor,
    /// int64 `[total]`, sorted.
    pub(crate) positions: Tensor,
    /// int64 `[total]`, sorted: how many tokens each token's document has.
    pub(crate) lengths: Tensor,
    /// int64 `[total]`: for each of the caller's rows, its sorted row; `None` where the order is the same.
    pub(crate) restore: Option<Tensor>,
    pub(crate) largest_token: u32,
    groups: Vec<Group>,
    total: i64,
}

/// Neighbouring documents of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    documents: i64,
    length: i64,
}

impl PackedBatch {
    /// Lays out a batch on `device`.
    ///
    /// # Errors
    /// There are no tokens, a document is empty, or `lengths` do not add up to the number of tokens.
    pub fn new(tokens: &[u32], lengths: &[usize], device: Device) -> Result<Self, ModelError> {
        check_lengths(tokens, lengths)?;
        let mut starts = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            starts.push(start);
            start += length;
        }
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&document| lengths[document]);
        let mut sorted = Vec::with_capacity(tokens.len());
        let mut positions = Vec::with_capacity(tokens.len());
        let mut document_lengths = Vec::with_capacity(tokens.len());
        let mut restore = vec![0i64; tokens.len()];
        for &document in &order {
            for position in 0..lengths[document] {
                let row = starts[document] + position;
                restore[row] = sorted.len() as i64;
                sorted.push(i64::from(tokens[row]));
                positions.push(position as i64);
                document_lengths.push(lengths[document] as i64);
            }
        }
        let moved = !order.is_sorted();
        let on_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        Ok(Self {
            tokens: on_device(&sorted)?,
            positions: on_device(&positions)?,
            lengths: on_device(&document_lengths)?,
            restore: moved.then(|| on_device(&restore)).transpose()?,
            largest_token: tokens.iter().copied().max().unwrap_or(0),
            groups: groups(lengths, &order),
            total: tokens.len() as i64,
        })
    }

    /// Number of tokens.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.total
    }
}

fn check_lengths(tokens: &[u32], lengths: &[usize]) -> Result<(), ModelError> {
    if tokens.is_empty() {
        return Err(ModelError::InvalidBatch("no tokens".to_owned()));
    }
    if let Some(document) = lengths.iter().position(|&length| length == 0) {
        return Err(ModelError::InvalidBatch(format!("document {document} is empty")));
    }
    let sum: usize = lengths.iter().sum();
    if sum != tokens.len() {
        return Err(ModelError::InvalidBatch(format!(
            "lengths add up to {sum}, tokens are {}",
            tokens.len()
        )));
    }
    Ok(())
}

fn groups(lengths: &[usize], order: &[usize]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &document in order {
        let length = lengths[document] as i64;
        match groups.last_mut() {
            Some(group) if group.length == length => group.documents += 1,
            _ => groups.push(Group { documents: 1, length }),
        }
    }
    groups
}

impl Attend for &PackedBatch {
    fn attend(
        &mut self,
        _layer: usize,
        shape: AttentionShape,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let rows: Vec<i64> = self
            .groups
            .iter()
            .map(|group| group.documents * group.length)
            .collect();
        // One split, not many narrows: its gradient is one concatenation.
        let split = |x: &Tensor| x.f_split_with_sizes(&rows[..], 0);
        let (queries, keys, values) = (split(q)?, split(k)?, split(v)?);
        let mut outputs = Vec::with_capacity(rows.len());
        for (number, group) in self.groups.iter().enumerate() {
            let batched = |x: &Tensor| -> Result<Tensor, ModelError> {
                let size = x.size();
                Ok(x.f_reshape([group.documents, group.length, size[1], size[2]])?
                    .f_transpose(1, 2)?)
            };
            let mixed = causal_attention(
                &batched(&queries[number])?,
                &batched(&keys[number])?,
                &batched(&values[number])?,
                shape,
            )?;
            outputs.push(mixed.f_transpose(1, 2)?.f_reshape([rows[number], -1])?);
        }
        if outputs.len() == 1 {
            Ok(outputs.remove(0))
        } else {
            Ok(Tensor::f_cat(&outputs, 0)?)
        }
    }
}

/// A mask for `queries` rows that end at column `keys - 1`: true where a query may look.
pub(crate) fn window_mask(
    queries: i64,
    keys: i64,
    window: Option<i64>,
    device: Device,
) -> Result<Tensor, ModelError> {
    let all = Tensor::f_ones([queries, keys], (Kind::Bool, device))?;
    let past = all.f_tril(keys - queries)?;
    match window {
        Some(window) => Ok(past.f_triu(keys - queries - window + 1)?),
        None => Ok(past),
    }
}
