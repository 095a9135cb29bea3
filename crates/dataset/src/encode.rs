//! From an example to tokens with a loss mask.
//!
//! What is supervised:
//! - `messages`, where the template has `{% generation %}`: what it marks.
//! - `messages` otherwise: for each assistant message, what rendering the conversation through it adds to rendering the
//!   conversation before it with the generation prompt. So the end-of-turn token, and what the template puts after it,
//!   count. This is TRL's convention.
//! - `prompt` and `completion`: the completion and the end token.
//! - `text`: all of it and the end token.
//!
//! A message with `weight` 0 is never supervised.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::chat::{Message, Role};
use crate::example::Example;
use crate::template::{ChatTemplate, Rendered, TemplateError};
use crate::tokenizer::{Encoded, TextTokenizer, TokenizerError};

/// Why an example has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The template refuses or fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template renders an earlier turn otherwise once later turns follow, so no mask of the whole conversation
    /// shows the model what it will see.
    #[error(
        "the chat template renders messages[{index}] differently when later messages follow; give earlier assistant \
         messages weight 0, or one example per answer"
    )]
    RewritesHistory {
        /// The assistant message.
        index: usize,
    },
    /// The template's generation prompt is not how it begins an assistant message.
    #[error(
        "the chat template does not render messages[{index}] as a continuation of the messages before it"
    )]
    NotAContinuation {
        /// The assistant message.
        index: usize,
    },
    /// The template marks another number of generations than there are assistant messages, so weights cannot be applied.
    #[error(
        "the chat template marks {marked} generations for {messages} assistant messages, so `weight` cannot be applied"
    )]
    MarksDiffer {
        /// Marked ranges.
        marked: usize,
        /// Assistant messages.
        messages: usize,
    },
}

/// Tokens with a loss mask of the same length. A token counts in the loss if it is supervised and not the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Whether each token is learnt.
    pub supervised: Vec<bool>,
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
}

/// How a token at the edge of a supervised range is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// It counts if it overlaps the range, as in Hugging Face's assistant masks.
    Overlap,
    /// It counts if it begins in the range, as in TRL's completion masks.
    Begins,
}

/// The text of an example before it is tokenized.
#[derive(Debug)]
struct Draft {
    text: String,
    add_special: bool,
    supervised: Vec<Range<usize>>,
    edge: Edge,
}

/// Tokenizer and template of one base model.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
}

impl Encoder {
    /// Loads tokenizer and template of a base model's folder. A folder without a template serves `text` and
    /// `prompt`/`completion` lines.
    ///
    /// # Errors
    /// A file that is missing or broken.
    pub fn load(folder: &Path) -> Result<Self, EncodeError> {
        let tokenizer = TextTokenizer::load(folder)?;
        let special = tokenizer.special();
        let template = match ChatTemplate::load(folder, special.bos.as_deref(), special.eos.as_deref()) {
            Ok(template) => Some(template),
            Err(TemplateError::Missing) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { tokenizer, template })
    }

    /// From its parts.
    #[must_use]
    pub const fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template }
    }

    /// The tokenizer.
    #[must_use]
    pub const fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The template, if the base model has one.
    #[must_use]
    pub const fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Tokens of a conversation up to where the assistant is to speak.
    ///
    /// # Errors
    /// The base model has no template, or template or tokenizer fail.
    pub fn encode_prompt(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<Vec<u32>, EncodeError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let rendered = template.render(messages, tools, true)?;
        Ok(self.tokenizer.encode(&rendered.text, false)?.ids)
    }

    /// Tokens and mask of one example.
    ///
    /// # Errors
    /// Template or tokenizer fail.
    pub fn encode(&self, example: &Example) -> Result<Sequence, EncodeError> {
        let draft = self.draft(example)?;
        let encoded = self.tokenizer.encode(&draft.text, draft.add_special)?;
        Ok(mask(encoded, &draft.supervised, draft.edge))
    }

    /// Tokens and masks of many examples, rendered and tokenized on all cores.
    ///
    /// # Errors
    /// The place of the first example that fails, and why.
    pub fn encode_batch(&self, examples: &[Example]) -> Result<Vec<Sequence>, (usize, EncodeError)> {
        let mut texts = Vec::with_capacity(examples.len());
        let mut spans = Vec::with_capacity(examples.len());
        let drafts: Vec<_> = examples.par_iter().map(|example| self.draft(example)).collect();
        for (place, draft) in drafts.into_iter().enumerate() {
            let draft = draft.map_err(|error| (place, error))?;
            texts.push((draft.text, draft.add_special));
            spans.push((draft.supervised, draft.edge));
        }
        let encoded = self
            .tokenizer
            .encode_batch(texts)
            .map_err(|error| (0, error.into()))?;
        Ok(encoded
            .into_iter()
            .zip(spans)
            .map(|(encoded, (supervised, edge))| mask(encoded, &supervised, edge))
            .collect())
    }

    fn draft(&self, example: &Example) -> Result<Draft, EncodeError> {
        match example {
            Example::Chat { messages, tools } => self.draft_chat(messages, tools.as_ref()),
            Example::Completion { prompt, completion } => Ok(self.draft_plain(prompt, completion)),
            Example::Text { text } => Ok(self.draft_plain("", text)),
        }
    }

    fn draft_plain(&self, given: &str, learnt: &str) -> Draft {
        let mut text = [given, learnt].concat();
        if let Some(eos) = &self.tokenizer.special().eos
            && !text.ends_with(eos.as_str())
        {
            text.push_str(eos);
        }
        Draft {
            supervised: std::iter::once(given.len()..text.len()).collect(),
            text,
            add_special: true,
            edge: Edge::Begins,
        }
    }

    fn draft_chat(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<Draft, EncodeError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let rendered = template.render(messages, tools, false)?;
        let (supervised, edge) = if template.marks_generation() {
            (trained_marks(&rendered, messages)?, Edge::Overlap)
        } else {
            let spans = differences(template, &rendered.text, messages, tools)?;
            (spans, Edge::Begins)
        };
        Ok(Draft {
            text: rendered.text,
            add_special: false,
            supervised,
            edge,
        })
    }
}

/// The marked ranges of the messages that are trained on.
fn trained_marks(rendered: &Rendered, messages: &[Message]) -> Result<Vec<Range<usize>>, EncodeError> {
    let speeches: Vec<bool> = messages
        .iter()
        .filter(|message| message.role == Role::Assistant)
        .map(|message| message.trained)
        .collect();
    if speeches.iter().all(|trained| *trained) {
        return Ok(rendered.generated.clone());
    }
    if rendered.generated.len() != speeches.len() {
        return Err(EncodeError::MarksDiffer {
            marked: rendered.generated.len(),
            messages: speeches.len(),
        });
    }
    let marks = rendered.generated.iter().cloned().zip(speeches);
    Ok(marks
        .filter_map(|(range, trained)| trained.then_some(range))
        .collect())
}

/// For each assistant message that is trained on, what it adds to the conversation before it.
fn differences(
    template: &ChatTemplate,
    whole: &str,
    messages: &[Message],
    tools: Option<&serde_json::Value>,
) -> Result<Vec<Range<usize>>, EncodeError> {
    let mut spans = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.role != Role::Assistant || !message.trained {
            continue;
        }
        let end = if index + 1 == messages.len() {
            whole.len()
        } else {
            let through = template.render(&messages[..=index], tools, false)?.text;
            if !whole.starts_with(&through) {
                return Err(EncodeError::RewritesHistory { index });
            }
            through.len()
        };
        let before = template.render(&messages[..index], tools, true)?.text;
        let start = common_prefix(&before, &whole[..end]);
        if start < before.len() {
            // The prompt ends with something the message does not begin with (an opened thought, say): what both share
            // must still hold all of the messages before.
            let plain = template.render(&messages[..index], tools, false)?.text;
            if !whole[..start].starts_with(&plain) {
                return Err(EncodeError::NotAContinuation { index });
            }
        }
        spans.push(start..end);
    }
    Ok(spans)
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

fn mask(encoded: Encoded, supervised: &[Range<usize>], edge: Edge) -> Sequence {
    let mut flags = vec![false; encoded.ids.len()];
    let mut next = 0;
    for (flag, offset) in flags.iter_mut().zip(&encoded.offsets) {
        while next < supervised.len() && supervised[next].end <= offset.start {
            next += 1;
        }
        let Some(span) = supervised.get(next) else { break };
        let inside = match edge {
            Edge::Overlap => offset.end > span.start,
            Edge::Begins => offset.start >= span.start,
        };
        *flag = inside && !offset.is_empty();
    }
    Sequence {
        tokens: encoded.ids,
        supervised: flags,
    }
}

#[cfg(test)]
mod tests;
