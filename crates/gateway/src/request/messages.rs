//! The messages of a chat. What is not known of a message is left out, so that nothing reaches a chat template that
//! was not checked.

use serde_json::{Map, Value, json};

use tunesmith_dataset::chat::{
    Message, Role,
    tools::{check_results, read_calls},
};

use super::{
    fields::{Fields, invalid},
    tools::first_problem,
};
use crate::GatewayError;

const ROLES: [&str; 5] = ["developer", "system", "user", "assistant", "tool"];
/// Fields that are handed on.
const KNOWN: [&str; 6] = ["role", "content", "name", "refusal", "tool_calls", "tool_call_id"];

/// Checks the list, and gives it without what we do not know.
pub(super) fn read(fields: &Fields<'_>) -> Result<Value, GatewayError> {
    let wrong = || invalid("messages", "`messages` must be a list of at least one message.");
    let messages = fields.list("messages").ok().flatten().ok_or_else(wrong)?;
    if messages.is_empty() {
        return Err(wrong());
    }
    let read = messages.iter().enumerate().map(|(place, message)| {
        let path = format!("messages[{place}]");
        let fields = Fields::inside(message, &path)?;
        read_message(&fields)
    });
    let read = read.collect::<Result<Vec<Value>, _>>()?;
    check_order(&read)?;
    Ok(Value::Array(read))
}

/// Results must answer calls. Of each message that is all that the check looks at.
fn check_order(messages: &[Value]) -> Result<(), GatewayError> {
    let outline = |message: &Value| {
        let role = message["role"].as_str().and_then(Role::parse);
        let calls = read_calls(&message["tool_calls"], "tool_calls");
        Message {
            tool_calls: calls.unwrap_or_default(),
            tool_call_id: message["tool_call_id"].as_str().map(ToOwned::to_owned),
            ..Message::new(role.unwrap_or(Role::System), "")
        }
    };
    let outlines: Vec<Message> = messages.iter().map(outline).collect();
    match check_results(&outlines, false) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(first_problem(problems)),
    }
}

fn read_message(message: &Fields<'_>) -> Result<Value, GatewayError> {
    let role = message.required_text("role")?;
    if !ROLES.contains(&role) {
        let path = message.path("role");
        let known = ROLES.map(|role| format!("`{role}`")).join(", ");
        return Err(invalid(&path, format!("`{path}` must be one of {known}.")));
    }
    message.text("name")?;
    if role == "tool" {
        message.required_text("tool_call_id")?;
    }
    let mut read: Map<String, Value> = KNOWN
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), message.get(name)?.clone())))
        .collect();
    // What newer OpenAI models call `system`. Chat templates know the latter only; many leave the former out in silence,
    // and not every vLLM puts one for the other.
    if role == "developer" {
        read.insert("role".to_owned(), json!("system"));
    }
    if role == "assistant" {
        message.text("refusal")?;
        read.shift_remove("tool_calls");
        let calls = message.list("tool_calls")?.unwrap_or_default();
        if !calls.is_empty() {
            read.insert("tool_calls".to_owned(), given_calls(message, calls)?);
        }
    } else {
        read.shift_remove("tool_calls");
        read.shift_remove("refusal");
    }
    let may_be_silent =
        role == "assistant" && (read.contains_key("tool_calls") || read.contains_key("refusal"));
    match message.get("content") {
        None if may_be_silent => {}
        None => return message.required("content").map(|_| Value::Null),
        Some(content) => {
            read.insert("content".to_owned(), read_content(message, content, role)?);
        }
    }
    Ok(Value::Object(read))
}

fn read_content(message: &Fields<'_>, content: &Value, role: &str) -> Result<Value, GatewayError> {
    let path = message.path("content");
    match content {
        Value::String(_) => Ok(content.clone()),
        Value::Array(parts) if !parts.is_empty() => {
            let parts = parts.iter().enumerate().map(|(place, part)| {
                let path = format!("{path}[{place}]");
                read_part(&Fields::inside(part, &path)?, role)
            });
            parts.collect::<Result<Vec<Value>, _>>().map(Value::Array)
        }
        _ => Err(invalid(
            &path,
            format!("`{path}` must be a text or a list of at least one part."),
        )),
    }
}

fn read_part(part: &Fields<'_>, role: &str) -> Result<Value, GatewayError> {
    let text = |name: &str| {
        part.required(name)?;
        part.text(name)
    };
    match part.required_text("type")? {
        "text" => Ok(json!({"type": "text", "text": text("text")?})),
        // What an assistant refused is text as well.
        "refusal" if role == "assistant" => Ok(json!({"type": "text", "text": text("refusal")?})),
        other => {
            let path = part.path("type");
            let other: String = other.chars().take(40).collect();
            let message = format!(
                "`{path}` is `{other}`, but the models here read texts only; use parts of type `text`."
            );
            Err(invalid(&path, message))
        }
    }
}

/// The calls as OpenAI has them, arguments as text; replicas read that text themselves.
fn given_calls(message: &Fields<'_>, calls: &[Value]) -> Result<Value, GatewayError> {
    let list = message.path("tool_calls");
    let read = calls.iter().enumerate().map(|(place, call)| {
        let path = format!("{list}[{place}]");
        let call = Fields::inside(call, &path)?;
        let id = call.required_text("id")?;
        if call.text("type")?.unwrap_or("function") != "function" {
            let path = call.path("type");
            return Err(invalid(&path, format!("`{path}` must be `function`.")));
        }
        let path = call.path("function");
        let function = Fields::inside(call.required("function")?, &path)?;
        let name = function.required_text("name")?;
        let arguments = function.text("arguments")?.unwrap_or_default();
        Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    });
    let read = Value::Array(read.collect::<Result<Vec<Value>, _>>()?);
    read_calls(&read, &list).map_err(first_problem)?;
    Ok(read)
}
