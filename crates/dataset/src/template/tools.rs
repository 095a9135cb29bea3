//! What a template does with tools: whether it shows definitions and calls at all, and in which form it writes calls.
//!
//! Templates say neither, so they are asked: a small conversation with a function of a name that no template has is
//! rendered, and the text shows it.

use serde_json::{Map, Value, json};

use super::{ChatTemplate, TemplateError};
use crate::chat::{Message, Role, ToolCall};

/// Name of the function in the question.
const PROBE: &str = "tunesmith_probe";
/// Nine letters and digits, which is what Mistral's templates demand of ids.
const PROBE_ID: &str = "probe0001";

/// The form in which a model writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSyntax {
    /// `<tool_call>{"name", "arguments"}</tool_call>`: Hermes, Qwen.
    Hermes,
    /// `{"name", "parameters"}` as the whole answer: Llama 3.1 and later.
    Llama,
    /// `[TOOL_CALLS] [{"name", "arguments"}, …]`: Mistral.
    Mistral,
}

/// What a template does with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolSupport {
    /// Whether it shows the definitions of tools.
    pub definitions: bool,
    /// Whether it shows the calls of an assistant.
    pub calls: bool,
    /// The form of calls, if it is one of those known here.
    pub syntax: Option<CallSyntax>,
}

impl ToolSupport {
    /// Asks `template`. Where it refuses the question, its source decides.
    pub(super) fn probe(template: &ChatTemplate, source: &str) -> Self {
        let definition = json!([{
            "type": "function",
            "function": {"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}},
        }]);
        let question = Message::new(Role::User, "?");
        let told = template.render_as_given(std::slice::from_ref(&question), Some(&definition), true);
        let definitions = match told {
            Ok(rendered) => rendered.text.contains(PROBE),
            Err(_) => source.contains("tools"),
        };
        let called = template.render_as_given(&[question, call(), result()], None, false);
        let (calls, syntax) = match called {
            Ok(rendered) => (rendered.text.contains(PROBE), syntax_of(&rendered.text)),
            Err(_) => (source.contains("tool_calls"), syntax_of(source)),
        };
        Self {
            definitions,
            calls,
            syntax,
        }
    }

    /// Refuses a conversation of which the template would leave out a part in silence.
    pub(super) fn check(self, messages: &[Message], tools: bool) -> Result<(), TemplateError> {
        if tools && !self.definitions {
            return Err(TemplateError::IgnoresTools);
        }
        let calls = messages.iter().any(|message| !message.tool_calls.is_empty());
        if calls && !self.calls {
            return Err(TemplateError::IgnoresCalls);
        }
        Ok(())
    }
}

fn call() -> Message {
    let call = ToolCall {
        id: Some(PROBE_ID.to_owned()),
        name: PROBE.to_owned(),
        arguments: Map::from_iter([("x".to_owned(), Value::from(1))]),
    };
    Message {
        tool_calls: vec![call],
        ..Message::new(Role::Assistant, "")
    }
}

fn result() -> Message {
    Message {
        tool_call_id: Some(PROBE_ID.to_owned()),
        ..Message::new(Role::Tool, "1")
    }
}

/// The form that a rendered call, or a template's source, has.
fn syntax_of(text: &str) -> Option<CallSyntax> {
    let compact: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    // A template's source has the quotes of a text's JSON as they are.
    if compact.contains("<tool_call>") && compact.contains("\"arguments\"") {
        Some(CallSyntax::Hermes)
    } else if compact.contains("[TOOL_CALLS]") && !compact.contains("[ARGS]") {
        Some(CallSyntax::Mistral)
    } else if compact.contains("\"parameters\":") && compact.contains("{\"name\":\"") {
        Some(CallSyntax::Llama)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        for (text, wanted) in [
            (
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
                Some(CallSyntax::Hermes),
            ),
            ("<tool_call>\n<function=f>\n<parameter=x>", None),
            (
                "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]</s>",
                Some(CallSyntax::Mistral),
            ),
            ("[TOOL_CALLS]f[ARGS]{}", None),
            (
                "{\"name\": \"f\", \"parameters\": {}}<|eot_id|>",
                Some(CallSyntax::Llama),
            ),
            ("functools[{\"name\": \"f\", \"arguments\": {}}]", None),
            ("", None),
        ] {
            assert_eq!(syntax_of(text), wanted, "{text}");
        }
    }
}
