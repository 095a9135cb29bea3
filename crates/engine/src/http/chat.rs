//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde_json::Value;
use tunesmith_dataset::{chat::Message, template::TemplateError};

use super::{
    answer::Shape,
    error::ApiError,
    fields::Fields,
    generate::{self, Prompts},
    messages,
    request::Request,
    sampling::MOST_LOGPROBS,
    tools::{self, Tools},
};
use crate::engine::Engine;

/// Fields that only chat requests have.
const UNSUPPORTED: [(&str, &[&str], &str); 5] = [
    ("chat_template", &[], "a request cannot bring its own template"),
    ("chat_template_kwargs", &[], "its templates take no arguments"),
    (
        "continue_final_message",
        &["false"],
        "it always begins a new message",
    ),
    ("documents", &[], "its templates take no documents"),
    ("echo", &["false"], "it gives new text only"),
];

/// Answers a conversation.
pub(super) async fn create(State(engine): State<Arc<Engine>>, fields: Fields) -> Result<Response, ApiError> {
    let mut request = Request::read(&fields, logprobs(&fields)?, &UNSUPPORTED)?;
    let tools = tools::read(&fields)?;
    let messages = messages::read(fields.required("messages")?)?;
    let generation_prompt = fields.flag("add_generation_prompt", true)?;
    let add_special = fields.flag("add_special_tokens", false)?;
    let lease = generate::find_model(&engine, &request.model).await?;
    if let Some(tools) = &tools {
        offer(&engine, tools, &mut request)?;
    }
    let prompt = {
        let engine = Arc::clone(&engine);
        let render = move || {
            let definitions = tools.as_ref().map(|tools| &tools.definitions);
            prompt(&engine, &messages, definitions, generation_prompt, add_special)
        };
        tokio::task::spawn_blocking(render)
            .await
            .map_err(|_| ApiError::internal())??
    };
    let prompts = Prompts {
        field: "messages",
        tokens: vec![prompt],
        default_max_tokens: None,
        echo: Vec::new(),
        reports: false,
    };
    generate::answer(&engine, &request, lease, prompts, Shape::Chat).await
}

/// `logprobs` switches them on, `top_logprobs` says how many alternatives.
fn logprobs(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs", false)?;
    let top = fields.integer("top_logprobs", 0..=MOST_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !wanted {
        return Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` needs `logprobs: true`.",
        ));
    }
    Ok(wanted.then_some(usize::try_from(top).unwrap_or(0)))
}

/// Makes the request one whose answer may call `tools`, or must.
fn offer(engine: &Engine, tools: &Tools, request: &mut Request) -> Result<(), ApiError> {
    if let Some(grammar) = &request.grammar {
        let message = format!(
            "`{}` would keep the model from calling a tool. Leave out either, or set `tool_choice` to `none`.",
            grammar.field
        );
        return Err(ApiError::invalid(grammar.field, message));
    }
    let reading = tools.reading(engine)?;
    request.grammar = tools.forced(engine, &reading);
    request.skip_special_tokens &= !reading.reads_special_tokens();
    request.calls = Some(reading);
    Ok(())
}

fn prompt(
    engine: &Engine,
    messages: &[Message],
    tools: Option<&Value>,
    generation_prompt: bool,
    add_special: bool,
) -> Result<Vec<u32>, ApiError> {
    let template = engine.template().ok_or_else(|| {
        let message = "This model has no chat template, so it cannot read messages. Use `/v1/completions`.";
        ApiError::invalid("messages", message)
    })?;
    let rendered = template
        .render(messages, tools, generation_prompt)
        .map_err(|error| match error {
            TemplateError::Refused(reason) => ApiError::invalid(
                "messages",
                format!("The model's chat template refuses the messages: {reason}"),
            ),
            TemplateError::IgnoresTools => ApiError::invalid("tools", sentence(&error)),
            TemplateError::IgnoresCalls => ApiError::invalid("messages", sentence(&error)),
            error => {
                tracing::warn!(error = &error as &dyn std::error::Error, "chat template failed");
                ApiError::invalid("messages", "The model's chat template fails on these messages.")
            }
        })?;
    generate::encode(engine, &rendered.text, add_special, "messages")
}

fn sentence(error: &TemplateError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn logprobs_need_their_switch() {
        let read = |json: &str| logprobs(&Fields::parse(json.as_bytes()).unwrap());
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"logprobs": true}"#).unwrap(), Some(0));
        assert_eq!(read(r#"{"logprobs": true, "top_logprobs": 5}"#).unwrap(), Some(5));
        assert!(read(r#"{"top_logprobs": 5}"#).is_err());
        assert!(read(r#"{"logprobs": true, "top_logprobs": 21}"#).is_err());
        assert!(read(r#"{"logprobs": 1}"#).is_err());
    }
}
