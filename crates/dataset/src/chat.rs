//! Chat messages: the typed form and the rules of a conversation.

mod parse;
pub mod tools;

use serde::Serialize;

use crate::fields::Problem;

pub(crate) use parse::MessagesSeed;
pub use tools::{Tool, ToolCall};

/// Most messages of one conversation.
pub const MOST_MESSAGES: usize = 4096;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions; only as the first message.
    System,
    /// The person.
    User,
    /// The model: what is learnt.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The role's name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// One message, as templates see it (`weight` is ours, templates never do).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Name of the speaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that an assistant makes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Weight of its tokens in the loss, from 0 to 1, where they are learnt at all.
    #[serde(skip)]
    pub weight: f32,
}

impl Message {
    /// A message with text only and full weight.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            weight: 1.0,
        }
    }

    /// Whether it is the assistant's and has a weight in the loss.
    #[must_use]
    pub fn is_trained(&self) -> bool {
        self.role == Role::Assistant && self.weight > 0.0
    }
}

/// The rules of a conversation as a whole: who may speak when, and that something is learnt.
pub(crate) fn check_conversation(messages: &[Message], problems: &mut Vec<Problem>) {
    if messages.is_empty() {
        let message = "`messages` is empty; give at least a user and an assistant message.";
        problems.push(Problem::field("messages", "empty_messages", message));
        return;
    }
    let mut previous = None;
    for (index, message) in messages.iter().enumerate() {
        check_turn(previous, message.role, index, problems);
        previous = Some(message.role);
    }
    problems.extend(tools::check_results(messages, true));
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        let message = "`messages` has no assistant message, so there is nothing to learn.";
        problems.push(Problem::field("messages", "no_assistant_message", message));
    } else if previous != Some(Role::Assistant) {
        let path = format!("messages[{}].role", messages.len() - 1);
        let message = format!("`{path}`: the last message must be the assistant's.");
        problems.push(Problem::field(path, "last_not_assistant", message));
    } else if !messages.iter().any(Message::is_trained) {
        let message =
            "every assistant message has weight 0, so there is nothing to learn; give one of them more.";
        problems.push(Problem::field("messages", "nothing_supervised", message));
    }
}

fn check_turn(previous: Option<Role>, role: Role, index: usize, problems: &mut Vec<Problem>) {
    let path = format!("messages[{index}].role");
    let (code, message) = match (previous, role) {
        (None, Role::System | Role::User)
        | (Some(Role::System | Role::Assistant), Role::User)
        | (Some(Role::User | Role::Tool), Role::Assistant)
        | (Some(Role::Assistant | Role::Tool), Role::Tool) => return,
        (Some(_), Role::System) => (
            "system_not_first",
            format!("`{path}`: a system message may only be the first."),
        ),
        (None, role) => (
            "first_not_user",
            format!(
                "`{path}`: a conversation begins with a system or a user message, not with \"{}\".",
                role.as_str()
            ),
        ),
        (Some(previous), role) => (
            "roles_do_not_alternate",
            format!(
                "`{path}`: \"{}\" may not follow \"{}\"; user and assistant must take turns.",
                role.as_str(),
                previous.as_str()
            ),
        ),
    };
    problems.push(Problem::field(path, code, message));
}
