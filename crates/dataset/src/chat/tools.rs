//! Tools that a model may call, and the calls themselves, in OpenAI's form. Lines of a dataset and requests are read by
//! the same functions, so that a template sees the same in training as in serving.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::{Message, Role};
use crate::fields::{Problem, shown};

/// Most tools of one conversation; OpenAI's bound.
pub const MOST_TOOLS: usize = 128;
/// Longest name of a function, in bytes; OpenAI's bound.
pub const LONGEST_NAME: usize = 64;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments, an object; none where it takes no arguments.
    pub parameters: Option<Value>,
}

/// A call that the assistant makes.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// By which its result names it.
    pub id: Option<String>,
    /// The function.
    pub name: String,
    /// Its arguments. Templates expect an object, although OpenAI sends a text of JSON.
    pub arguments: Map<String, Value>,
}

impl Serialize for ToolCall {
    /// As transformers hands calls to templates.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(id) = &self.id {
            map.serialize_entry("id", id)?;
        }
        map.serialize_entry("type", "function")?;
        map.serialize_entry(
            "function",
            &json!({"name": self.name, "arguments": self.arguments}),
        )?;
        map.end()
    }
}

/// Reads the definitions under `tools`.
///
/// # Errors
/// Everything that is wrong with them, by path.
pub fn read_tools(value: &Value) -> Result<Vec<Tool>, Vec<Problem>> {
    let Some(items) = value.as_array() else {
        return Err(vec![wrong(
            "tools",
            "wrong_type",
            "must be an array of tool definitions",
        )]);
    };
    if items.len() > MOST_TOOLS {
        let message = format!("`tools` has {} tools; the most is {MOST_TOOLS}.", items.len());
        return Err(vec![Problem::field("tools", "too_many_tools", message)]);
    }
    read_each(items, "tools", read_tool, |tool, others, path| {
        let repeats = others.iter().any(|other: &Tool| other.name == tool.name);
        repeats.then(|| {
            let path = format!("{path}.function.name");
            let message = format!(
                "`{path}`: there is another tool named \"{}\"; names must differ.",
                tool.name
            );
            Problem::field(path, "duplicate_tool", message)
        })
    })
}

/// Reads the items of the list at `path`, and asks `clash` what is wrong with each beside those before it.
fn read_each<T>(
    items: &[Value],
    path: &str,
    read: impl Fn(&Value, &str, &mut Vec<Problem>) -> Option<T>,
    clash: impl Fn(&T, &[T], &str) -> Option<Problem>,
) -> Result<Vec<T>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut found = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(one) = read(item, &path, &mut problems) else {
            continue;
        };
        problems.extend(clash(&one, &found, &path));
        found.push(one);
    }
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems)
    }
}

fn read_tool(item: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<Tool> {
    if !item.is_object() {
        problems.push(wrong(
            path,
            "wrong_type",
            "must be an object with `type` and `function`",
        ));
        return None;
    }
    require_function_type(&item["type"], &format!("{path}.type"), problems)?;
    let path = format!("{path}.function");
    let function = &item["function"];
    if !function.is_object() {
        problems.push(wrong(
            &path,
            "missing_field",
            "must be an object with `name` and `parameters`",
        ));
        return None;
    }
    let name = read_name(&function["name"], &format!("{path}.name"), problems)?;
    check_extras(function, &path, problems);
    let parameters = &function["parameters"];
    check_schema(parameters, &format!("{path}.parameters"), problems);
    Some(Tool {
        name,
        parameters: Some(parameters.clone()).filter(|schema| !schema.is_null()),
    })
}

fn check_extras(function: &Value, path: &str, problems: &mut Vec<Problem>) {
    if !(function["description"].is_null() || function["description"].is_string()) {
        problems.push(wrong(
            &format!("{path}.description"),
            "wrong_type",
            "must be a string",
        ));
    }
    if !(function["strict"].is_null() || function["strict"].is_boolean()) {
        problems.push(wrong(
            &format!("{path}.strict"),
            "wrong_type",
            "must be true or false",
        ));
    }
}

/// The parts of a schema on which everything else rests. Whether it can be enforced is known when it is compiled.
fn check_schema(schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    if schema.is_null() {
        return;
    }
    if !schema.is_object() {
        problems.push(wrong(
            path,
            "invalid_schema",
            "must be a JSON schema, which is an object",
        ));
        return;
    }
    let kind = &schema["type"];
    if !(kind.is_null() || kind == "object") {
        let message = "must be \"object\", since arguments are named";
        problems.push(wrong(&format!("{path}.type"), "invalid_schema", message));
    }
    let properties = &schema["properties"];
    if !(properties.is_null() || properties.is_object()) {
        let message = "must be an object of schemas";
        problems.push(wrong(&format!("{path}.properties"), "invalid_schema", message));
    }
    let required = &schema["required"];
    let names = required
        .as_array()
        .is_some_and(|names| names.iter().all(Value::is_string));
    if !(required.is_null() || names) {
        let message = "must be an array of names";
        problems.push(wrong(&format!("{path}.required"), "invalid_schema", message));
    }
}

/// Reads the calls of an assistant message, which are at `path`. The arguments may be a text of JSON, as OpenAI has them,
/// or the object itself, as Hugging Face's datasets have them; an empty text is an empty object.
///
/// # Errors
/// Everything that is wrong with them, by path.
pub fn read_calls(value: &Value, path: &str) -> Result<Vec<ToolCall>, Vec<Problem>> {
    let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
        return Err(vec![wrong(
            path,
            "wrong_type",
            "must be an array of at least one call",
        )]);
    };
    read_each(items, path, read_call, |call, others, path| {
        let repeats = call.id.is_some() && others.iter().any(|other: &ToolCall| other.id == call.id);
        repeats.then(|| {
            let path = format!("{path}.id");
            let message = format!("`{path}`: another call of the message has the same id.");
            Problem::field(path, "duplicate_tool_call", message)
        })
    })
}

fn read_call(item: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<ToolCall> {
    if !item.is_object() {
        problems.push(wrong(
            path,
            "wrong_type",
            "must be an object with `id`, `type` and `function`",
        ));
        return None;
    }
    let id = match &item["id"] {
        Value::Null => None,
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        _ => {
            let message = "must be a string that is not empty";
            problems.push(wrong(&format!("{path}.id"), "wrong_type", message));
            return None;
        }
    };
    if !item["type"].is_null() {
        require_function_type(&item["type"], &format!("{path}.type"), problems)?;
    }
    let path = format!("{path}.function");
    let function = &item["function"];
    if !function.is_object() {
        problems.push(wrong(
            &path,
            "missing_field",
            "must be an object with `name` and `arguments`",
        ));
        return None;
    }
    let name = read_name(&function["name"], &format!("{path}.name"), problems)?;
    let arguments = read_arguments(&function["arguments"], &format!("{path}.arguments"), problems)?;
    Some(ToolCall { id, name, arguments })
}

fn read_arguments(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<Map<String, Value>> {
    let parsed = match value {
        Value::Null => return Some(Map::new()),
        Value::String(text) if text.trim().is_empty() => return Some(Map::new()),
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    };
    if let Some(Value::Object(arguments)) = parsed {
        return Some(arguments);
    }
    let message = "must be a JSON object, written as a text";
    problems.push(wrong(path, "invalid_arguments", message));
    None
}

fn read_name(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let name = value.as_str().filter(|name| !name.is_empty());
    let name = name.filter(|name| name.len() <= LONGEST_NAME && name.bytes().all(plain));
    if name.is_none() {
        let message = format!("`{path}` must be 1 to {LONGEST_NAME} letters, digits, `_` or `-`.");
        problems.push(Problem::field(path, "invalid_name", message));
    }
    name.map(ToOwned::to_owned)
}

fn require_function_type(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<()> {
    if value == "function" {
        return Some(());
    }
    problems.push(wrong(path, "unknown_type", "must be \"function\""));
    None
}

fn wrong(path: &str, code: &'static str, message: &str) -> Problem {
    Problem::field(path, code, format!("`{path}` {message}."))
}

/// Checks that every result answers a call of the assistant's message before it. With `complete`, every call that is not
/// in the last message must have its result too.
pub fn check_results(messages: &[Message], complete: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut open: Vec<&ToolCall> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.role == Role::Tool {
            check_result(message, index, &mut open, &mut problems);
            continue;
        }
        if complete && let Some(call) = open.first() {
            let path = format!("messages[{index}].role");
            let message = format!(
                "`{path}`: the call of \"{}\" before it has no tool message with its result.",
                shown(&call.name)
            );
            problems.push(Problem::field(path, "unanswered_tool_call", message));
        }
        open = message.tool_calls.iter().collect();
    }
    problems
}

fn check_result(message: &Message, index: usize, open: &mut Vec<&ToolCall>, problems: &mut Vec<Problem>) {
    let Some(id) = &message.tool_call_id else {
        if open.is_empty() {
            let path = format!("messages[{index}].role");
            let message =
                format!("`{path}`: a tool message must follow the assistant's call that it answers.");
            problems.push(Problem::field(path, "tool_without_call", message));
        } else {
            // Without ids, results come in the order of the calls.
            open.remove(0);
        }
        return;
    };
    let named = open.iter().position(|call| call.id.as_ref() == Some(id));
    match named.or_else(|| open.iter().position(|call| call.id.is_none())) {
        Some(place) => drop(open.remove(place)),
        None => {
            let path = format!("messages[{index}].tool_call_id");
            let message = format!(
                "`{path}`: \"{}\" is the id of no unanswered call in the assistant's message before it.",
                shown(id)
            );
            problems.push(Problem::field(path, "tool_without_call", message));
        }
    }
}

#[cfg(test)]
mod tests;
