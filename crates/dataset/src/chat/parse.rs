//! Parses messages so that one line reports all its errors.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{MOST_MESSAGES, Message, Role, ToolCall, tools};
use crate::fields::{Loose, Problem, fill, shown};

/// Parses the array under `messages`; problems go to the second field.
pub(crate) struct MessagesSeed<'a>(pub(crate) &'a mut Vec<Problem>);

impl<'de> DeserializeSeed<'de> for MessagesSeed<'_> {
    /// None where a problem was found.
    type Value = Option<Vec<Message>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl MessagesSeed<'_> {
    fn refuse<T>(self, kind: &str) -> Option<T> {
        self.0.push(Problem::field(
            "messages",
            "wrong_type",
            format!("`messages` must be an array of messages, but it is {kind}."),
        ));
        None
    }
}

impl<'de> Visitor<'de> for MessagesSeed<'_> {
    type Value = Option<Vec<Message>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of messages")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.refuse("null"))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(self.refuse("a boolean"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(self.refuse("a number"))
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(self.refuse("a string"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.refuse("an object"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        let mut index = 0;
        let before = self.0.len();
        while let Some(raw) = items.next_element::<RawMessage>()? {
            if index < MOST_MESSAGES
                && let Some(message) = raw.check(index, self.0)
            {
                messages.push(message);
            }
            index += 1;
        }
        if index > MOST_MESSAGES {
            self.0.push(Problem::field(
                "messages",
                "too_many_messages",
                format!("`messages` has {index} messages; the most is {MOST_MESSAGES}."),
            ));
        }
        Ok((self.0.len() == before).then_some(messages))
    }
}

/// An element of `messages` before it is judged.
#[derive(Default)]
struct RawMessage {
    not_an_object: Option<Loose>,
    role: Option<Loose>,
    content: Option<Loose>,
    name: Option<Loose>,
    weight: Option<Loose>,
    tool_calls: Option<serde_json::Value>,
    tool_call_id: Option<Loose>,
    problems: Vec<(String, &'static str, String)>,
}

impl<'de> Deserialize<'de> for RawMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawMessageVisitor)
    }
}

struct RawMessageVisitor;

fn other<E>(value: Loose) -> Result<RawMessage, E> {
    Ok(RawMessage {
        not_an_object: Some(value),
        ..RawMessage::default()
    })
}

impl<'de> Visitor<'de> for RawMessageVisitor {
    type Value = RawMessage;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message object")
    }
    fn visit_unit<E>(self) -> Result<RawMessage, E> {
        other(Loose::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<RawMessage, E> {
        other(Loose::Bool)
    }
    fn visit_i64<E>(self, value: i64) -> Result<RawMessage, E> {
        other(Loose::Number(value as f64))
    }
    fn visit_u64<E>(self, value: u64) -> Result<RawMessage, E> {
        other(Loose::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<RawMessage, E> {
        other(Loose::Number(value))
    }
    fn visit_str<E>(self, _: &str) -> Result<RawMessage, E> {
        other(Loose::Text(String::new()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawMessage, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        other(Loose::Array)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawMessage, A::Error> {
        let mut raw = RawMessage::default();
        let mut twice = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "role" => fill(&mut raw.role, entries.next_value()?, &key, &mut twice),
                "content" => fill(&mut raw.content, entries.next_value()?, &key, &mut twice),
                "name" => fill(&mut raw.name, entries.next_value()?, &key, &mut twice),
                "weight" => fill(&mut raw.weight, entries.next_value()?, &key, &mut twice),
                "tool_calls" => fill(&mut raw.tool_calls, entries.next_value()?, &key, &mut twice),
                "tool_call_id" => fill(&mut raw.tool_call_id, entries.next_value()?, &key, &mut twice),
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    let message = "is not a field of a message; the fields are role, content, name, weight, \
                                   tool_calls and tool_call_id.";
                    raw.problems
                        .push((shown(&key), "unknown_field", message.to_owned()));
                }
            }
        }
        for problem in twice {
            let key = problem.field.unwrap_or_default();
            raw.problems.push((
                key,
                "duplicate_field",
                "is given more than once; keep one.".to_owned(),
            ));
        }
        Ok(raw)
    }
}

impl RawMessage {
    /// The message, or the problems of `messages[index]`.
    fn check(self, index: usize, problems: &mut Vec<Problem>) -> Option<Message> {
        let at = |field: &str| format!("messages[{index}].{field}");
        let before = problems.len();
        if let Some(value) = self.not_an_object {
            let path = format!("messages[{index}]");
            let message = format!(
                "`{path}` must be an object with `role` and `content`, but it is {}.",
                value.kind()
            );
            problems.push(Problem::field(path, "wrong_type", message));
            return None;
        }
        for (key, code, message) in self.problems {
            let path = at(&key);
            problems.push(Problem::field(path.clone(), code, format!("`{path}` {message}")));
        }
        let role = check_role(self.role, &at("role"), problems);
        let calls = self.tool_calls.filter(|calls| !calls.is_null());
        let content = check_content(self.content, calls.is_some(), &at("content"), problems);
        let name = self.name.and_then(|name| name.text(&at("name"), problems));
        let tool_call_id = self
            .tool_call_id
            .and_then(|id| id.text(&at("tool_call_id"), problems));
        let weight = check_weight(self.weight.as_ref(), role, &at("weight"), problems);
        let tool_calls = check_calls(calls.as_ref(), role, &at("tool_calls"), problems);
        if problems.len() > before {
            return None;
        }
        let (role, content) = (role?, content?);
        Some(Message {
            role,
            content,
            name,
            tool_calls,
            tool_call_id,
            weight: weight.unwrap_or(1.0),
        })
    }
}

fn check_role(role: Option<Loose>, path: &str, problems: &mut Vec<Problem>) -> Option<Role> {
    let Some(role) = role else {
        problems.push(Problem::field(
            path,
            "missing_field",
            format!("`{path}` is missing; give system, user, assistant or tool."),
        ));
        return None;
    };
    let name = role.text(path, problems)?;
    let role = Role::parse(&name);
    if role.is_none() {
        problems.push(Problem::field(
            path,
            "unknown_role",
            format!(
                "`{path}` must be system, user, assistant or tool, not \"{}\".",
                shown(&name)
            ),
        ));
    }
    role
}

fn check_calls(
    calls: Option<&serde_json::Value>,
    role: Option<Role>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Vec<ToolCall> {
    let Some(calls) = calls else {
        return Vec::new();
    };
    if role.is_some_and(|role| role != Role::Assistant) {
        let message = format!("`{path}` is only for assistant messages.");
        problems.push(Problem::field(path, "misplaced_field", message));
        return Vec::new();
    }
    tools::read_calls(calls, path).unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    })
}

fn check_content(
    content: Option<Loose>,
    has_tool_calls: bool,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    match content {
        None | Some(Loose::Null) if has_tool_calls => Some(String::new()),
        None => {
            problems.push(Problem::field(
                path,
                "missing_field",
                format!("`{path}` is missing; give the text of the message."),
            ));
            None
        }
        Some(Loose::Array) => {
            problems.push(Problem::field(
                path,
                "content_parts",
                format!("`{path}` is an array; content parts and images are not supported, give one string."),
            ));
            None
        }
        Some(content) => {
            let text = content.text(path, problems)?;
            if text.trim().is_empty() && !has_tool_calls {
                problems.push(Problem::field(
                    path,
                    "empty_content",
                    format!("`{path}` is empty; give it text or remove the message."),
                ));
                return None;
            }
            Some(text)
        }
    }
}

fn check_weight(
    weight: Option<&Loose>,
    role: Option<Role>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<f32> {
    let range = "must be a number from 0 (not trained on) to 1";
    let (code, message) = match weight? {
        Loose::Number(weight) if !(0.0..=1.0).contains(weight) => {
            ("invalid_weight", format!("`{path}` {range}; {weight} was given."))
        }
        Loose::Number(weight) if *weight > 0.0 && role.is_some_and(|role| role != Role::Assistant) => (
            "misplaced_field",
            format!("`{path}` is {weight}, but only assistant messages can be trained on; remove it."),
        ),
        Loose::Number(weight) => return Some(*weight as f32),
        other => (
            "invalid_weight",
            format!("`{path}` {range}, but it is {}.", other.kind()),
        ),
    };
    problems.push(Problem::field(path, code, message));
    None
}
