//! Tokens with the weight of each in the loss.

use std::ops::Range;

use crate::tokenizer::Encoded;

/// Tokens whose weight in the loss is neither 0 nor 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Fraction {
    /// Their places.
    pub places: Range<usize>,
    /// Their weight, between 0 and 1.
    pub weight: f32,
}

/// Tokens with a loss mask of the same length. A token counts in the loss if it is supervised and not the first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Whether each token is learnt.
    pub supervised: Vec<bool>,
    /// Supervised tokens that count less than fully, in order and without overlap.
    pub fractions: Vec<Fraction>,
}

impl Sequence {
    /// Tokens that count in the loss.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.supervised
            .iter()
            .skip(1)
            .filter(|supervised| **supervised)
            .count()
    }

    /// Weight of each token in the loss; 0 where it is not supervised.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = f32> {
        weigh(self.supervised.iter().copied(), 0, &self.fractions)
    }

    /// Keeps the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.supervised.truncate(length);
        truncate_fractions(&mut self.fractions, length);
    }
}

/// Takes away what lies at place `length` and behind.
pub(crate) fn truncate_fractions(fractions: &mut Vec<Fraction>, length: usize) {
    fractions.truncate(fractions.partition_point(|fraction| fraction.places.start < length));
    if let Some(last) = fractions.last_mut() {
        last.places.end = last.places.end.min(length);
    }
}

/// The weights of tokens of which the first is at `first`, a place in the numbering of `fractions`.
pub(crate) fn weigh(
    supervised: impl ExactSizeIterator<Item = bool>,
    first: usize,
    fractions: &[Fraction],
) -> impl ExactSizeIterator<Item = f32> {
    let begin = fractions.partition_point(|fraction| fraction.places.end <= first);
    let mut rest = &fractions[begin..];
    supervised.enumerate().map(move |(offset, supervised)| {
        let place = first + offset;
        while let [passed, others @ ..] = rest
            && passed.places.end <= place
        {
            rest = others;
        }
        match rest.first() {
            _ if !supervised => 0.0,
            Some(fraction) if fraction.places.contains(&place) => fraction.weight,
            _ => 1.0,
        }
    })
}

/// A stretch of text that is learnt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    /// Its bytes.
    pub(super) bytes: Range<usize>,
    /// Weight of its tokens, above 0.
    pub(super) weight: f32,
}

/// How a token at the edge of a span is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// It counts if it overlaps the span, as in Hugging Face's assistant masks.
    Overlap,
    /// It counts if it begins in the span, as in TRL's completion masks.
    Begins,
}

/// Marks the tokens of `spans`, which are in order and do not overlap. A token that the tokenizer added is no one's.
pub(super) fn mask(encoded: Encoded, spans: &[Span], edge: Edge) -> Sequence {
    let mut sequence = Sequence {
        supervised: vec![false; encoded.ids.len()],
        tokens: encoded.ids,
        fractions: Vec::new(),
    };
    let mut rest = spans;
    for (place, offset) in encoded.offsets.iter().enumerate() {
        while let [passed, others @ ..] = rest
            && passed.bytes.end <= offset.start
        {
            rest = others;
        }
        let Some(span) = rest.first() else { break };
        let inside = match edge {
            Edge::Overlap => offset.end > span.bytes.start,
            Edge::Begins => offset.start >= span.bytes.start,
        };
        if inside && !offset.is_empty() {
            sequence.supervised[place] = true;
            if span.weight < 1.0 {
                add_fraction(&mut sequence.fractions, place, span.weight);
            }
        }
    }
    sequence
}

fn add_fraction(fractions: &mut Vec<Fraction>, place: usize, weight: f32) {
    match fractions.last_mut() {
        Some(last) if last.places.end == place && last.weight == weight => last.places.end += 1,
        _ => fractions.push(Fraction {
            places: place..place + 1,
            weight,
        }),
    }
}
