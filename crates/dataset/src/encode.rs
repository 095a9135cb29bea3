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
//! With `train_on_inputs` everything is supervised: the whole rendered conversation, prompt and completion.
//!
//! The `weight` of a message, from 0 to 1, is that of its tokens in the loss, so one with weight 0 is never supervised.
//! That holds with `train_on_inputs` too, for messages of every role; where the template does not let such a message be
//! told apart from its neighbours, the example is refused rather than learnt.

mod sequence;
mod supervision;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::chat::Message;
use crate::example::Example;
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{TextTokenizer, TokenizerError};

use sequence::{Edge, Span, mask};
pub use sequence::{Fraction, Sequence};
pub(crate) use sequence::{truncate_fractions, weigh};
use supervision::Conversation;

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
        "the chat template renders messages[{index}] differently when later messages follow, so its tokens cannot be \
         told apart; give earlier assistant messages weight 0 (and no other weights with train_on_inputs), or one \
         example per answer"
    )]
    RewritesHistory {
        /// The message.
        index: usize,
    },
    /// The template's generation prompt is not how it begins an assistant message, or a message is rendered into those
    /// before it.
    #[error(
        "the chat template does not render messages[{index}] as a continuation of the messages before it"
    )]
    NotAContinuation {
        /// The message.
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

/// The text of an example before it is tokenized.
#[derive(Debug)]
struct Draft {
    text: String,
    add_special: bool,
    learnt: Vec<Span>,
    edge: Edge,
}

/// Tokenizer and template of one base model; clones share both.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Arc<TextTokenizer>,
    template: Option<Arc<ChatTemplate>>,
    train_on_inputs: bool,
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
        Ok(Self::new(tokenizer, template))
    }

    /// From its parts.
    #[must_use]
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>) -> Self {
        Self {
            tokenizer: Arc::new(tokenizer),
            template: template.map(Arc::new),
            train_on_inputs: false,
        }
    }

    /// The same encoder, which supervises all tokens of an example where `all`, else what the assistant says.
    #[must_use]
    pub fn train_on_inputs(mut self, all: bool) -> Self {
        self.train_on_inputs = all;
        self
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The template, if the base model has one.
    #[must_use]
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_deref()
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
        Ok(mask(encoded, &draft.learnt, draft.edge))
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
            spans.push((draft.learnt, draft.edge));
        }
        let encoded = self
            .tokenizer
            .encode_batch(texts)
            .map_err(|error| (0, error.into()))?;
        Ok(encoded
            .into_iter()
            .zip(spans)
            .map(|(encoded, (learnt, edge))| mask(encoded, &learnt, edge))
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
        let start = if self.train_on_inputs { 0 } else { given.len() };
        Draft {
            learnt: vec![Span {
                bytes: start..text.len(),
                weight: 1.0,
            }],
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
        let conversation = Conversation {
            template,
            messages,
            tools,
            whole: &rendered,
        };
        let (learnt, edge) = if self.train_on_inputs {
            conversation.everything()?
        } else {
            conversation.answers()?
        };
        Ok(Draft {
            text: rendered.text,
            add_special: false,
            learnt,
            edge,
        })
    }
}

#[cfg(test)]
mod tests;
