//! The messages of a chat request, as the chat template takes them.

use serde_json::Value;
use tunesmith_dataset::chat::{
    Message, Role, ToolCall,
    tools::{check_results, read_calls},
};

use super::{error::ApiError, tools::first_problem};

/// Most messages of one request.
const MOST_MESSAGES: usize = 4096;

/// Reads `messages`.
///
/// # Errors
/// The first message that is wrong, by its path.
pub(super) fn read(value: &Value) -> Result<Vec<Message>, ApiError> {
    let items = value
        .as_array()
        .filter(|items| (1..=MOST_MESSAGES).contains(&items.len()))
        .ok_or_else(|| {
            ApiError::invalid(
                "messages",
                format!("`messages` must be a list of 1 to {MOST_MESSAGES} messages."),
            )
        })?;
    let messages = items
        .iter()
        .enumerate()
        .map(|(index, item)| message(&format!("messages[{index}]"), item));
    let messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
    match check_results(&messages, false) {
        problems if problems.is_empty() => Ok(messages),
        problems => Err(first_problem(problems)),
    }
}

fn message(path: &str, value: &Value) -> Result<Message, ApiError> {
    if !value.is_object() {
        return Err(ApiError::invalid(
            path,
            format!("`{path}` must be an object with `role` and `content`."),
        ));
    }
    let role = role(&format!("{path}.role"), &value["role"])?;
    let calls =
        Some(&value["tool_calls"]).filter(|calls| calls.as_array().is_some_and(|calls| !calls.is_empty()));
    let content = match &value["content"] {
        Value::Null if calls.is_some() => String::new(),
        content => content_text(&format!("{path}.content"), content)?,
    };
    let text = |name: &str| value[name].as_str().map(ToOwned::to_owned);
    let mut message = Message::new(role, content);
    message.name = text("name");
    message.tool_call_id = text("tool_call_id");
    if let Some(calls) = calls {
        message.tool_calls = tool_calls(role, path, calls)?;
    }
    Ok(message)
}

fn tool_calls(role: Role, path: &str, calls: &Value) -> Result<Vec<ToolCall>, ApiError> {
    let path = format!("{path}.tool_calls");
    if role != Role::Assistant {
        let message = format!("`{path}` is only for assistant messages.");
        return Err(ApiError::invalid(&path, message));
    }
    read_calls(calls, &path).map_err(first_problem)
}

/// `developer` is what newer OpenAI models call `system`; chat templates know the latter only.
fn role(path: &str, value: &Value) -> Result<Role, ApiError> {
    let role = match value.as_str() {
        Some("developer") => Some(Role::System),
        Some(name) => Role::parse(name),
        None => None,
    };
    role.ok_or_else(|| {
        let message = format!("`{path}` must be system, developer, user, assistant or tool, not {value}.");
        ApiError::invalid(path, message)
    })
}

/// A text, or parts of type text, which are joined by line ends as vLLM joins them.
fn content_text(path: &str, value: &Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts: Result<Vec<&str>, ApiError> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| part_text(&format!("{path}[{index}]"), part))
                .collect();
            Ok(texts?.join("\n"))
        }
        _ => Err(ApiError::invalid(
            path,
            format!("`{path}` must be a text or a list of text parts."),
        )),
    }
}

fn part_text<'a>(path: &str, part: &'a Value) -> Result<&'a str, ApiError> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some(kind), _) if kind != "text" => {
            let message =
                format!("`{path}` is of type `{kind}`; this engine takes parts of type `text` only.");
            Err(ApiError::invalid(path, message))
        }
        _ => Err(ApiError::invalid(
            path,
            format!("`{path}` must be like {{\"type\": \"text\", \"text\": \"…\"}}."),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn all_forms_of_a_message_are_read() {
        let messages = read(&json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Jo"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
            ]},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
        ]))
        .unwrap();
        assert_eq!(messages[0].role, Role::System);
        assert_eq!(
            (messages[1].content.as_str(), messages[1].name.as_deref()),
            ("a\nb", Some("Jo"))
        );
        assert_eq!(messages[2].tool_calls[0].arguments["x"], 1);
        assert_eq!(messages[3].tool_call_id.as_deref(), Some("c"));
    }

    #[test]
    fn wrong_messages_are_refused_by_path() {
        for (value, path) in [
            (json!("hi"), "messages"),
            (json!([]), "messages"),
            (json!([3]), "messages[0]"),
            (
                json!([{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}]),
                "messages[1].role",
            ),
            (json!([{"content": "x"}]), "messages[0].role"),
            (
                json!([{"role": "user", "content": "x", "tool_calls": [{"id": "c"}]}]),
                "messages[0].tool_calls",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": "c"}]}]),
                "messages[0].tool_calls[0].function",
            ),
            (
                json!([{"role": "tool", "content": "x", "tool_call_id": "c"}]),
                "messages[0].tool_call_id",
            ),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": 3}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "messages[0].content[0]",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0]",
            ),
        ] {
            assert_eq!(
                read(&value).unwrap_err().body().error.param.as_deref(),
                Some(path),
                "{value}"
            );
        }
    }
}
