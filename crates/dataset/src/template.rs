//! Chat templates: the Jinja text that comes with a base model, rendered as Hugging Face renders it.
//!
//! Templates come with base models, never with requests. They run with a fuel limit, which bounds time and memory.

mod generation;
mod json;
mod tools;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use sha2::{Digest, Sha256};

use crate::chat::Message;
use crate::special::read_json;
use crate::tokenizer::TokenizerError;

pub use tools::{CallSyntax, ToolSupport};

const NAME: &str = "chat_template";
/// Fuel of a render beyond what its input needs: bounds the work of any template.
const BASE_FUEL: u64 = 2_000_000;

/// Most bytes of a template's text; those of large public models have up to 30 KB.
const MOST_SOURCE_BYTES: usize = 64 * 1024;
/// Stack for compiling; pages are only used as far as a template needs them.
const COMPILE_STACK_BYTES: usize = 512 * 1024 * 1024;

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The folder has no template.
    #[error(
        "the base model has no chat template (neither chat_template.jinja nor chat_template in tokenizer_config.json)"
    )]
    Missing,
    /// A file of the folder is unreadable.
    #[error("the chat template cannot be read")]
    Read(#[source] TokenizerError),
    /// The template is not valid.
    #[error("the chat template is not valid: {0}")]
    Compile(#[source] Error),
    /// The template is larger than any real one.
    #[error("the chat template has {bytes} bytes; the most is {MOST_SOURCE_BYTES}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// The template refused the conversation with `raise_exception`.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The conversation has tools, and the template leaves them out.
    #[error("the chat template of this model does not know tools: it leaves `tools` out of the prompt")]
    IgnoresTools,
    /// The conversation has calls, and the template leaves them out.
    #[error(
        "the chat template of this model does not know tools: it leaves `tool_calls` out of the conversation"
    )]
    IgnoresCalls,
    /// The template failed.
    #[error("the chat template failed: {0}")]
    Render(#[source] Error),
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes that the template marks with `{% generation %}`; empty where it has none.
    pub generated: Vec<Range<usize>>,
}

/// A compiled chat template with the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    marks_generation: bool,
    eos_token: Option<String>,
    digest: String,
    source: String,
    tool_support: OnceLock<ToolSupport>,
}

impl ChatTemplate {
    /// Compiles `source`. `bos` and `eos`: texts of the special tokens.
    ///
    /// # Errors
    /// The template is not valid Jinja.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if source.len() > MOST_SOURCE_BYTES {
            return Err(TemplateError::TooLong { bytes: source.len() });
        }
        let mut environment = environment();
        environment.add_global("bos_token", bos.unwrap_or_default());
        environment.add_global("eos_token", eos.unwrap_or_default());
        let (translated, marks_generation) = generation::translate(source);
        let environment = compile(environment, translated)?;
        Ok(Self {
            environment,
            marks_generation,
            eos_token: eos.filter(|eos| !eos.is_empty()).map(ToOwned::to_owned),
            digest: hex::encode(Sha256::digest(source.as_bytes())),
            source: source.to_owned(),
            tool_support: OnceLock::new(),
        })
    }

    /// Loads the template of a base model's folder: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` (a text, or a list with one named `default`).
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn load(folder: &Path, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        Self::new(&source_in(folder)?, bos, eos)
    }

    /// Whether the template says itself what the model generates.
    #[must_use]
    pub const fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// The text of the end token, if the tokenizer has one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// sha256 of the template's text, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What the template does with tools.
    pub fn tool_support(&self) -> ToolSupport {
        *self
            .tool_support
            .get_or_init(|| ToolSupport::probe(self, &self.source))
    }

    /// Renders a conversation. `add_generation_prompt`: whether the text ends where the assistant is to speak.
    ///
    /// # Errors
    /// The template refuses the conversation, leaves its tools out, fails, or runs out of fuel.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        if tools.is_some() || messages.iter().any(|message| !message.tool_calls.is_empty()) {
            self.tool_support().check(messages, tools.is_some())?;
        }
        self.render_as_given(messages, tools, add_generation_prompt)
    }

    fn render_as_given(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let input = serde_json::to_string(messages)
            .map_err(|error| TemplateError::Render(bad_operation(error.to_string())))?;
        let marks = generation::Marks::absent_from(&input);
        let template = self
            .environment
            .get_template(NAME)
            .map_err(TemplateError::Compile)?;
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map(|tools| Value::from(Serde(tools))),
            add_generation_prompt => add_generation_prompt,
            ..generation::context(marks)
        };
        let text = template.render(context).map_err(render_error)?;
        Ok(generation::split(&text, marks))
    }
}

/// Compiles on a thread with a stack that is deep enough for anything of [`MOST_SOURCE_BYTES`]: the parser recurses along
/// chains such as `1-1-1…` without a limit of its own, and a stack overflow cannot be caught.
fn compile(
    mut environment: Environment<'static>,
    source: String,
) -> Result<Environment<'static>, TemplateError> {
    let work = move || environment.add_template_owned(NAME, source).map(|()| environment);
    std::thread::Builder::new()
        .name("chat-template".to_owned())
        .stack_size(COMPILE_STACK_BYTES)
        .spawn(work)
        .map_err(|error| TemplateError::Compile(bad_operation(error.to_string())))?
        .join()
        .unwrap_or_else(|_| Err(bad_operation("the template compiler panicked".to_owned())))
        .map_err(TemplateError::Compile)
}

fn render_error(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(found) = cause {
        if let Some(Raised(message)) = found.downcast_ref::<Raised>() {
            return TemplateError::Refused(message.clone());
        }
        cause = found.source();
    }
    TemplateError::Render(error)
}

/// The template's text in a folder.
fn source_in(folder: &Path) -> Result<String, TemplateError> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(source),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(TemplateError::Read(TokenizerError::Read { path, source })),
    }
    let config = read_json(folder, "tokenizer_config.json").map_err(TemplateError::Read)?;
    let template = config.as_ref().map(|config| &config["chat_template"]);
    match template {
        Some(serde_json::Value::String(source)) => Ok(source.clone()),
        Some(serde_json::Value::Array(named)) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .or_else(|| named.first())
            .and_then(|entry| entry["template"].as_str())
            .map(ToOwned::to_owned)
            .ok_or(TemplateError::Missing),
        _ => Err(TemplateError::Missing),
    }
}

/// The message of `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn bad_operation(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(bad_operation("raise_exception was called".to_owned()).with_source(Raised(message)))
}

/// A fixed date: what is trained and what is served must not depend on the day.
fn strftime_now(format: &str) -> String {
    const PARTS: [(&str, &str); 8] = [
        ("%d", "26"),
        ("%b", "Jul"),
        ("%B", "July"),
        ("%m", "07"),
        ("%Y", "2024"),
        ("%y", "24"),
        ("%H", "00"),
        ("%M", "00"),
    ];
    PARTS
        .iter()
        .fold(format.to_owned(), |text, (key, value)| text.replace(key, value))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("invariant: the default delimiters are valid"),
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(BASE_FUEL));
    environment.set_recursion_limit(200);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: String| strftime_now(&format));
    environment.add_filter("tojson", |state: &State, value: Value, arguments: Kwargs| {
        json::dumps(state, &value, &arguments)
    });
    environment.add_filter(generation::FILTER, generation::mark);
    environment
}

#[cfg(test)]
mod tests;
