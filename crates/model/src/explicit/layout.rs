//! Where the rows of a pass lie: documents end to end, those of one segment together.

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::to_device_async;

use crate::error::ModelError;
use crate::training::{Document, Segment};

/// A run of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) start: i64,
    pub(super) count: i64,
}

impl Rows {
    /// These rows of `x`.
    pub(super) fn of(self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(if x.size()[0] == self.count {
            x.shallow_clone()
        } else {
            x.f_narrow(0, self.start, self.count)?
        })
    }
}

/// The rows of one pass.
#[derive(Debug)]
pub(super) struct Layout {
    /// int64 `[tokens]`.
    pub(super) token_ids: Tensor,
    /// int64 `[tokens]`, from 0 in each document.
    pub(super) positions: Tensor,
    /// int64 `[tokens]`: length of the row's document.
    pub(super) lengths: Tensor,
    /// The row behind each document.
    pub(super) ends: Vec<i64>,
    /// Each segment's tokens.
    pub(super) segments: Vec<Rows>,
    /// Each segment's rows among the scored ones.
    pub(super) scored: Vec<Rows>,
    /// int64 `[scored]`: rows whose next token is learnt.
    scored_rows: Tensor,
    /// int64 `[scored]`: those next tokens.
    pub(super) targets: Tensor,
    /// float32 `[scored]`: the weight of each in its segment's loss.
    pub(super) weights: Tensor,
    /// Whether the last block works on the scored rows alone behind its attention.
    pub(super) prunes_last_block: bool,
}

/// The same on the host, while it grows.
#[derive(Default)]
struct Draft {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    lengths: Vec<i64>,
    ends: Vec<i64>,
    scored_rows: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f32>,
}

impl Draft {
    /// Adds a document. Behind the last learnt token nothing is needed, so `trim` cuts there; dropout counts rows, so a
    /// segment with dropout keeps them all.
    fn add(&mut self, document: &Document<'_>, trim: bool) -> Result<(), ModelError> {
        let length = document.tokens.len();
        if length == 0 || document.weights.len() != length {
            return Err(ModelError::InvalidBatch(format!(
                "a document has {length} tokens and {} weights",
                document.weights.len()
            )));
        }
        let learnt = |place: &usize| document.weights[*place] != 0.0;
        let last = (1..length).rev().find(learnt);
        let kept = if trim { last.unwrap_or(0) } else { length };
        let start = self.tokens.len() as i64;
        for place in (1..length).filter(learnt) {
            self.scored_rows.push(start + place as i64 - 1);
            self.targets.push(i64::from(document.tokens[place]));
            self.weights.push(document.weights[place]);
        }
        self.tokens
            .extend(document.tokens[..kept].iter().map(|&token| i64::from(token)));
        self.positions.extend(0..kept as i64);
        self.lengths.extend(std::iter::repeat_n(length as i64, kept));
        if kept > 0 {
            self.ends.push(self.tokens.len() as i64);
        }
        Ok(())
    }
}

impl Layout {
    pub(super) fn new(segments: &[Segment<'_>], vocabulary: i64, device: Device) -> Result<Self, ModelError> {
        check_tokens(segments, vocabulary)?;
        let mut draft = Draft::default();
        let (mut rows, mut scored) = (Vec::new(), Vec::new());
        for segment in segments {
            let (start, first) = (draft.tokens.len(), draft.targets.len());
            for document in &segment.documents {
                draft.add(document, !segment.drops())?;
            }
            let span = |start: usize, end: usize| Rows {
                start: start as i64,
                count: (end - start) as i64,
            };
            rows.push(span(start, draft.tokens.len()));
            scored.push(span(first, draft.targets.len()));
        }
        let on_device = |values: &[i64]| to_device_async(&Tensor::f_from_slice(values)?, device);
        Ok(Self {
            token_ids: on_device(&draft.tokens)?,
            positions: on_device(&draft.positions)?,
            lengths: on_device(&draft.lengths)?,
            ends: draft.ends,
            segments: rows,
            scored,
            scored_rows: on_device(&draft.scored_rows)?,
            targets: on_device(&draft.targets)?,
            weights: to_device_async(&Tensor::f_from_slice(&draft.weights)?, device)?,
            prunes_last_block: !segments.iter().any(Segment::drops),
        })
    }

    pub(super) fn tokens(&self) -> i64 {
        self.token_ids.size()[0]
    }

    pub(super) fn scored_rows(&self) -> i64 {
        self.targets.size()[0]
    }

    /// The scored rows of `x: [tokens, n]`.
    pub(super) fn pick_scored(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.f_index_select(0, &self.scored_rows)?)
    }

    /// `[tokens, n]` with `picked: [scored, n]` in its rows and zeros elsewhere.
    pub(super) fn spread_scored(&self, picked: &Tensor) -> Result<Tensor, ModelError> {
        let options = (picked.f_kind()?, picked.device());
        let mut whole = Tensor::f_zeros([self.tokens(), picked.size()[1]], options)?;
        let _ = whole.f_index_copy_(0, &self.scored_rows, picked)?;
        Ok(whole)
    }

    /// float32 `[scored]`: the weights, each multiplied with its segment's factor.
    pub(super) fn scaled_weights(&self, scales: impl Iterator<Item = f64>) -> Result<Tensor, ModelError> {
        let factors: Vec<f32> = scales
            .zip(&self.scored)
            .flat_map(|(scale, rows)| std::iter::repeat_n(scale as f32, rows.count as usize))
            .collect();
        let factors = to_device_async(&Tensor::f_from_slice(&factors)?, self.weights.device())?;
        Ok(self.weights.f_mul(&factors)?.f_to_kind(Kind::Float)?)
    }
}

/// An index out of range would poison a CUDA context, so it is caught here.
fn check_tokens(segments: &[Segment<'_>], vocabulary: i64) -> Result<(), ModelError> {
    let documents = segments.iter().flat_map(|segment| &segment.documents);
    match documents.flat_map(|document| document.tokens).max() {
        Some(&token) if i64::from(token) >= vocabulary => {
            Err(ModelError::TokenOutOfRange { token, vocabulary })
        }
        Some(_) => Ok(()),
        None => Err(ModelError::InvalidBatch("no tokens".to_owned())),
    }
}
