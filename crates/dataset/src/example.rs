//! One line of a dataset: a conversation, a prompt with its completion, or a text.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use tunesmith_types::dataset::ExampleFormat;

use crate::chat::{Message, MessagesSeed, check_conversation, tools};
use crate::fields::{Loose, Problem, fill, shown};

/// One example.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// `{"messages": [{"role", "content", …}], "tools"?: […]}`: the assistant's messages are learnt.
    Chat {
        /// The conversation.
        messages: Vec<Message>,
        /// Tool definitions in OpenAI's form, checked, and handed to the chat template as they are.
        tools: Option<serde_json::Value>,
    },
    /// `{"prompt", "completion"}`: the completion is learnt; no chat template.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// `{"text"}`: all of it is learnt; no chat template.
    Text {
        /// The text.
        text: String,
    },
}

impl Example {
    /// Parses one line, without its line break.
    ///
    /// # Errors
    /// Everything that is wrong with the line, each with the path of its field.
    pub fn parse(line: &[u8]) -> Result<Self, Vec<Problem>> {
        let text = std::str::from_utf8(line).map_err(|error| {
            vec![Problem::line(
                "invalid_utf8",
                format!("the line is not UTF-8 at byte {}.", error.valid_up_to()),
            )]
        })?;
        let mut problems = Vec::new();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let raw = (&mut deserializer)
            .deserialize_map(RawLineVisitor(&mut problems))
            .and_then(|raw| deserializer.end().map(|()| raw))
            .map_err(|error| vec![syntax_problem(text, &error)])?;
        let example = raw.judge(&mut problems);
        match example {
            Some(example) if problems.is_empty() => Ok(example),
            _ => Err(problems),
        }
    }

    /// Which of the three formats it has.
    #[must_use]
    pub const fn format(&self) -> ExampleFormat {
        match self {
            Self::Chat { .. } => ExampleFormat::Chat,
            Self::Completion { .. } => ExampleFormat::Completion,
            Self::Text { .. } => ExampleFormat::Text,
        }
    }
}

fn syntax_problem(text: &str, error: &serde_json::Error) -> Problem {
    if error.is_data() {
        let start = text.trim_start().chars().next().unwrap_or(' ');
        return Problem::line(
            "not_an_object",
            format!("the line must be a JSON object, but it begins with \"{start}\"."),
        );
    }
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    Problem::line(
        "invalid_json",
        format!(
            "the line is not valid JSON: {reason} at column {}.",
            error.column()
        ),
    )
}

/// The keys of a line before they are judged.
#[derive(Default)]
struct RawLine {
    messages: Option<Option<Vec<Message>>>,
    tools: Option<serde_json::Value>,
    parallel_tool_calls: Option<Loose>,
    prompt: Option<Loose>,
    completion: Option<Loose>,
    text: Option<Loose>,
}

struct RawLineVisitor<'a>(&'a mut Vec<Problem>);

impl<'de> Visitor<'de> for RawLineVisitor<'_> {
    type Value = RawLine;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawLine, A::Error> {
        let mut raw = RawLine::default();
        let problems = self.0;
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "messages" => {
                    let messages = entries.next_value_seed(MessagesSeed(problems))?;
                    fill(&mut raw.messages, messages, &key, problems);
                }
                "tools" => fill(&mut raw.tools, entries.next_value()?, &key, problems),
                "parallel_tool_calls" => {
                    fill(
                        &mut raw.parallel_tool_calls,
                        entries.next_value()?,
                        &key,
                        problems,
                    );
                }
                "prompt" => fill(&mut raw.prompt, entries.next_value()?, &key, problems),
                "completion" => fill(&mut raw.completion, entries.next_value()?, &key, problems),
                "text" => fill(&mut raw.text, entries.next_value()?, &key, problems),
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    let key = shown(&key);
                    problems.push(Problem::field(
                        key.clone(),
                        "unknown_field",
                        format!(
                            "`{key}` is not a field; a line has `messages`, or `prompt` and `completion`, or `text`."
                        ),
                    ));
                }
            }
        }
        Ok(raw)
    }
}

impl RawLine {
    /// `tools` and what belongs to them are for conversations.
    fn check_tool_fields(&self, problems: &mut Vec<Problem>) {
        let given = [
            ("tools", self.tools.is_some()),
            ("parallel_tool_calls", self.parallel_tool_calls.is_some()),
        ];
        for (field, _) in given
            .into_iter()
            .filter(|(_, given)| *given && self.messages.is_none())
        {
            let message = format!("`{field}` is only for lines with `messages`.");
            problems.push(Problem::field(field, "misplaced_field", message));
        }
        // OpenAI's lines have it; what is learnt are the calls that are there, so it changes nothing.
        if !matches!(self.parallel_tool_calls, None | Some(Loose::Null | Loose::Bool)) {
            let message = "`parallel_tool_calls` must be true or false.";
            problems.push(Problem::field("parallel_tool_calls", "wrong_type", message));
        }
    }

    fn judge(self, problems: &mut Vec<Problem>) -> Option<Example> {
        let is_completion = self.prompt.is_some() || self.completion.is_some();
        let formats = [self.messages.is_some(), is_completion, self.text.is_some()];
        match formats.iter().filter(|present| **present).count() {
            0 => {
                let message =
                    "the line has no example: give `messages`, or `prompt` and `completion`, or `text`.";
                problems.push(Problem::line("no_format", message));
                return None;
            }
            1 => {}
            _ => {
                let message =
                    "the line mixes formats: give only one of `messages`, `prompt` and `completion`, `text`.";
                problems.push(Problem::line("two_formats", message));
                return None;
            }
        }
        self.check_tool_fields(problems);
        if let Some(messages) = self.messages {
            return judge_chat(messages?, self.tools, problems);
        }
        if let Some(text) = self.text {
            let text = not_empty(Some(text), "text", problems)?;
            return Some(Example::Text { text });
        }
        let prompt = not_empty(self.prompt, "prompt", problems);
        let completion = not_empty(self.completion, "completion", problems);
        Some(Example::Completion {
            prompt: prompt?,
            completion: completion?,
        })
    }
}

fn judge_chat(
    messages: Vec<Message>,
    tools: Option<serde_json::Value>,
    problems: &mut Vec<Problem>,
) -> Option<Example> {
    let before = problems.len();
    check_conversation(&messages, problems);
    let tools = tools.filter(|tools| !tools.is_null() && *tools != serde_json::json!([]));
    match tools.as_ref().map(tools::read_tools) {
        None => {}
        Some(Ok(known)) => check_called(&messages, &known, problems),
        Some(Err(found)) => problems.extend(found),
    }
    (problems.len() == before).then_some(Example::Chat { messages, tools })
}

/// A call of a function that the line does not define would teach the model to invent some.
fn check_called(messages: &[Message], tools: &[tools::Tool], problems: &mut Vec<Problem>) {
    for (index, message) in messages.iter().enumerate() {
        for (place, call) in message.tool_calls.iter().enumerate() {
            if tools.iter().any(|tool| tool.name == call.name) {
                continue;
            }
            let path = format!("messages[{index}].tool_calls[{place}].function.name");
            let message = format!("`{path}`: `tools` has no function \"{}\".", shown(&call.name));
            problems.push(Problem::field(path, "unknown_tool", message));
        }
    }
}

fn not_empty(value: Option<Loose>, path: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let Some(value) = value else {
        problems.push(Problem::field(
            path,
            "missing_field",
            format!("`{path}` is missing."),
        ));
        return None;
    };
    let text = value.text(path, problems)?;
    if text.trim().is_empty() {
        problems.push(Problem::field(
            path,
            "empty_content",
            format!("`{path}` is empty."),
        ));
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests;
