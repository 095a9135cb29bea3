//! Which bytes of a rendered conversation are learnt, and with which weight.

use std::ops::Range;

use super::EncodeError;
use super::sequence::{Edge, Span};
use crate::chat::{Message, Role};
use crate::template::{ChatTemplate, Rendered};

/// A conversation with the template that renders it.
pub(super) struct Conversation<'a> {
    pub(super) template: &'a ChatTemplate,
    pub(super) messages: &'a [Message],
    pub(super) tools: Option<&'a serde_json::Value>,
    /// All of it, rendered.
    pub(super) whole: &'a Rendered,
}

impl Conversation<'_> {
    /// What the assistant says.
    pub(super) fn answers(&self) -> Result<(Vec<Span>, Edge), EncodeError> {
        if self.template.marks_generation() {
            return Ok((self.marked()?, Edge::Overlap));
        }
        let mut spans = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            if message.is_trained() {
                spans.push(Span {
                    bytes: self.answer(index)?,
                    weight: message.weight,
                });
            }
        }
        Ok((spans, Edge::Begins))
    }

    /// All of the text; messages with a weight of their own keep it.
    pub(super) fn everything(&self) -> Result<(Vec<Span>, Edge), EncodeError> {
        let marks = self.marks_of_answers();
        let mut spans = Vec::new();
        let mut end = 0;
        let mut answer = 0;
        for (index, message) in self.messages.iter().enumerate() {
            let mark = marks.get(answer).cloned();
            answer += usize::from(message.role == Role::Assistant);
            if message.weight >= 1.0 {
                continue;
            }
            let bytes = match mark.filter(|_| message.role == Role::Assistant) {
                Some(mark) => mark,
                None if message.role == Role::Assistant => self.answer(index)?,
                None => self.added(index)?,
            };
            spans.push(Span {
                bytes: end..bytes.start.max(end),
                weight: 1.0,
            });
            end = bytes.end;
            spans.push(Span {
                bytes,
                weight: message.weight,
            });
        }
        spans.push(Span {
            bytes: end..self.whole.text.len(),
            weight: 1.0,
        });
        spans.retain(|span| span.weight > 0.0 && !span.bytes.is_empty());
        Ok((spans, Edge::Begins))
    }

    /// The marked ranges of the messages that are trained on.
    fn marked(&self) -> Result<Vec<Span>, EncodeError> {
        let answers = self
            .messages
            .iter()
            .filter(|message| message.role == Role::Assistant);
        let weights: Vec<f32> = answers.map(|message| message.weight).collect();
        let marks = &self.whole.generated;
        let first = weights.first().copied().unwrap_or(1.0);
        let alike = weights.iter().all(|weight| *weight == first);
        if !alike && marks.len() != weights.len() {
            return Err(EncodeError::MarksDiffer {
                marked: marks.len(),
                messages: weights.len(),
            });
        }
        let weights = weights.into_iter().chain(std::iter::repeat(first));
        let spans = marks.iter().cloned().zip(weights);
        Ok(spans
            .map(|(bytes, weight)| Span { bytes, weight })
            .filter(|span| span.weight > 0.0)
            .collect())
    }

    /// One mark for each assistant message, or nothing.
    fn marks_of_answers(&self) -> &[Range<usize>] {
        let answers = self
            .messages
            .iter()
            .filter(|message| message.role == Role::Assistant);
        let marks = &self.whole.generated;
        if marks.len() == answers.count() {
            marks
        } else {
            &[]
        }
    }

    /// What assistant message `index` adds to the conversation before it with the generation prompt.
    fn answer(&self, index: usize) -> Result<Range<usize>, EncodeError> {
        let end = self.through(index)?;
        let before = self.render(index, true)?;
        let start = common_prefix(&before, &self.whole.text[..end]);
        if start < before.len() {
            // The prompt ends with something the message does not begin with (an opened thought, say): what both share
            // must still hold all of the messages before.
            let plain = self.render(index, false)?;
            if !self.whole.text[..start].starts_with(&plain) {
                return Err(EncodeError::NotAContinuation { index });
            }
        }
        Ok(start..end)
    }

    /// What message `index` adds to the conversation before it.
    fn added(&self, index: usize) -> Result<Range<usize>, EncodeError> {
        let end = self.through(index)?;
        if index == 0 {
            return Ok(0..end);
        }
        let before = self.render(index, false)?;
        if !self.whole.text[..end].starts_with(&before) {
            return Err(EncodeError::NotAContinuation { index });
        }
        Ok(before.len()..end)
    }

    /// Where message `index` ends.
    fn through(&self, index: usize) -> Result<usize, EncodeError> {
        if index + 1 == self.messages.len() {
            return Ok(self.whole.text.len());
        }
        let through = self.render(index + 1, false)?;
        if !self.whole.text.starts_with(&through) {
            return Err(EncodeError::RewritesHistory { index });
        }
        Ok(through.len())
    }

    /// The first `count` messages. Templates such as Phi-3's put the end token behind the last message of a
    /// conversation, which in the whole one is not this one: then it is left out.
    fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String, EncodeError> {
        let rendered = self
            .template
            .render(&self.messages[..count], self.tools, add_generation_prompt)?;
        let mut text = rendered.text;
        if !add_generation_prompt
            && !self.whole.text.starts_with(&text)
            && let Some(shorter) = self.template.eos_token().and_then(|eos| text.strip_suffix(eos))
        {
            text.truncate(shorter.len());
        }
        Ok(text)
    }
}

/// Bytes that both texts begin with, cut to a whole character.
fn common_prefix(left: &str, right: &str) -> usize {
    let mut length = left
        .bytes()
        .zip(right.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    while !left.is_char_boundary(length) {
        length -= 1;
    }
    length
}
