//! `POST /v1/completions`

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde_json::Value;

use super::{
    answer::Shape,
    error::ApiError,
    fields::Fields,
    generate::{self, Prompts},
    request::Request,
    sampling::{MOST_LOGPROBS, token_ids},
};
use crate::engine::Engine;

/// Fields that only completions have.
const UNSUPPORTED: [(&str, &[&str], &str); 2] = [
    ("suffix", &[], "it cannot fill in the middle"),
    ("tools", &[], "only `/v1/chat/completions` has tool calls"),
];

/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most prompts of one request.
const MOST_PROMPTS: usize = 64;

/// One prompt: text, or the tokens themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// Goes on from one prompt or several.
pub(super) async fn create(State(engine): State<Arc<Engine>>, fields: Fields) -> Result<Response, ApiError> {
    let logprobs = fields
        .integer("logprobs", 0..=MOST_LOGPROBS)?
        .and_then(|count| usize::try_from(count).ok());
    let request = Request::read(&fields, logprobs, &UNSUPPORTED)?;
    let prompts = prompts(fields.required("prompt")?)?;
    let add_special = fields.flag("add_special_tokens", true)?;
    let echo = fields.flag("echo", false)?;
    let lease = generate::find_model(&engine, &request.model).await?;
    let (tokens, echo) = {
        let engine = Arc::clone(&engine);
        let encode = move || {
            let read = |prompt: &Prompt| {
                let tokens = tokens(&engine, prompt, add_special)?;
                let text = echo.then(|| prompt_text(&engine, prompt));
                Ok((tokens, text))
            };
            let read: Result<Vec<_>, ApiError> = prompts.iter().map(read).collect();
            let (tokens, texts): (Vec<_>, Vec<_>) = read?.into_iter().unzip();
            Ok((tokens, texts.into_iter().flatten().collect()))
        };
        let tokens: Result<(Vec<Vec<u32>>, Vec<String>), ApiError> = tokio::task::spawn_blocking(encode)
            .await
            .map_err(|_| ApiError::internal())?;
        tokens?
    };
    let prompts = Prompts {
        field: "prompt",
        tokens,
        default_max_tokens: Some(DEFAULT_MAX_TOKENS),
        reports: !echo.is_empty() && logprobs.is_some(),
        echo,
    };
    generate::answer(&engine, &request, lease, prompts, Shape::Completion).await
}

/// A text, a list of token ids, or a list of either.
fn prompts(value: &Value) -> Result<Vec<Prompt>, ApiError> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        list => token_ids(list)
            .filter(|tokens| !tokens.is_empty())
            .map(Prompt::Tokens),
    };
    if let Some(prompt) = one(value) {
        return Ok(vec![prompt]);
    }
    let prompts: Option<Vec<Prompt>> = value.as_array().and_then(|items| items.iter().map(one).collect());
    prompts
        .filter(|prompts| (1..=MOST_PROMPTS).contains(&prompts.len()))
        .ok_or_else(|| {
            let message = format!(
                "`prompt` must be a text, a list of token ids, or a list of at most {MOST_PROMPTS} of these."
            );
            ApiError::invalid("prompt", message)
        })
}

fn tokens(engine: &Engine, prompt: &Prompt, add_special: bool) -> Result<Vec<u32>, ApiError> {
    match prompt {
        Prompt::Text(text) => generate::encode(engine, text, add_special, "prompt"),
        Prompt::Tokens(tokens) => {
            if let Some(token) = tokens.iter().find(|token| **token >= engine.vocabulary()) {
                let message = format!(
                    "`prompt` has the token id {token}; the model knows ids below {}.",
                    engine.vocabulary()
                );
                return Err(ApiError::invalid("prompt", message));
            }
            Ok(tokens.clone())
        }
    }
}

fn prompt_text(engine: &Engine, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        // Ids that the tokenizer does not know have no text.
        Prompt::Tokens(tokens) => engine.tokenizer().decode(tokens, false).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn all_forms_of_a_prompt_are_read() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        for (value, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]),
            (
                json!([[1], [2, 3]]),
                vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])],
            ),
        ] {
            assert_eq!(prompts(&value).unwrap(), expected);
        }
    }

    #[test]
    fn other_prompts_are_refused() {
        for value in [
            json!(3),
            json!([]),
            json!([[]]),
            json!([-1]),
            json!([1.5]),
            json!({}),
            json!(vec!["x"; 65]),
        ] {
            assert!(prompts(&value).is_err(), "{value}");
        }
    }
}
