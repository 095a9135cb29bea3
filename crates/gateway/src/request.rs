//! Bodies of inference requests: only fields that we know are handed to a replica.

use serde_json::{Map, Value};

use crate::GatewayError;

/// Fields of both endpoints.
const SAMPLING: &[&str] = &[
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "stream",
    "stream_options",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "user",
    // vLLM's own
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
    "include_stop_str_in_output",
];

/// Further fields of `/v1/chat/completions`.
const CHAT: &[&str] = &[
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
];

/// Further fields of `/v1/completions`.
const COMPLETION: &[&str] = &["prompt", "suffix", "echo", "best_of"];

/// Which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    /// Path on a replica, and ours.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
        }
    }

    fn allows(self, field: &str) -> bool {
        let own = match self {
            Self::Chat => CHAT,
            Self::Completion => COMPLETION,
        };
        SAMPLING.contains(&field) || own.contains(&field)
    }
}

/// A checked request. Unknown fields are gone; `model` stands apart because each side has its own name for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelRequest {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) stream: bool,
    fields: Map<String, Value>,
}

impl ModelRequest {
    /// Checks a body.
    ///
    /// # Errors
    /// No `model`, no messages or prompt, or a field whose meaning we cannot grant.
    pub(crate) fn parse(endpoint: Endpoint, body: Value) -> Result<Self, GatewayError> {
        let Value::Object(mut fields) = body else {
            return Err(invalid(None, "The body must be a JSON object."));
        };
        if fields.contains_key("chat_template") {
            return Err(invalid(
                Some("chat_template"),
                "`chat_template` is not accepted: a model is always called with the template it was trained with.",
            ));
        }
        let model = match fields.remove("model") {
            Some(Value::String(model)) if !model.is_empty() => model,
            _ => {
                return Err(invalid(
                    Some("model"),
                    "`model` must name a deployment or a base model.",
                ));
            }
        };
        let stream = match fields.get("stream") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(stream)) => *stream,
            Some(_) => return Err(invalid(Some("stream"), "`stream` must be true or false.")),
        };
        check_input(endpoint, &fields)?;
        fields.retain(|field, value| endpoint.allows(field) && !value.is_null());
        Ok(Self {
            endpoint,
            model,
            stream,
            fields,
        })
    }

    /// A field as the caller gave it.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// The body for a replica that calls the model `internal`.
    pub(crate) fn body(&self, internal: &str) -> Value {
        let mut body = Map::with_capacity(self.fields.len() + 1);
        body.insert("model".to_owned(), Value::String(internal.to_owned()));
        body.extend(self.fields.clone());
        Value::Object(body)
    }
}

fn check_input(endpoint: Endpoint, fields: &Map<String, Value>) -> Result<(), GatewayError> {
    match endpoint {
        Endpoint::Chat => match fields.get("messages") {
            Some(Value::Array(messages)) if !messages.is_empty() => Ok(()),
            _ => Err(invalid(
                Some("messages"),
                "`messages` must be a list of at least one message.",
            )),
        },
        Endpoint::Completion => match fields.get("prompt") {
            Some(Value::String(_)) => Ok(()),
            Some(Value::Array(prompts)) if !prompts.is_empty() => Ok(()),
            _ => Err(invalid(
                Some("prompt"),
                "`prompt` must be a text or a list of at least one prompt.",
            )),
        },
    }
}

fn invalid(param: Option<&str>, message: &str) -> GatewayError {
    GatewayError::Invalid {
        param: param.map(ToOwned::to_owned),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_and_nulls_are_dropped() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1, "top_p": null,
                          "store": true, "lora_path": "/etc"});
        let request = ModelRequest::parse(Endpoint::Chat, body).unwrap();
        assert_eq!(
            request.body("a--v1-01234567"),
            json!({"model": "a--v1-01234567", "messages": [{"role": "user", "content": "x"}], "seed": 1})
        );
        assert!(!request.stream);
    }

    #[test]
    fn each_fault_names_its_field() {
        let message = json!([{"role": "user", "content": "x"}]);
        for (body, param) in [
            (json!([]), None),
            (json!({"messages": message}), Some("model")),
            (json!({"model": "", "messages": message}), Some("model")),
            (json!({"model": "m"}), Some("messages")),
            (json!({"model": "m", "messages": []}), Some("messages")),
            (
                json!({"model": "m", "messages": message, "stream": "yes"}),
                Some("stream"),
            ),
            (
                json!({"model": "m", "messages": message, "chat_template": "{{ x }}"}),
                Some("chat_template"),
            ),
        ] {
            let error = ModelRequest::parse(Endpoint::Chat, body).unwrap_err();
            assert_eq!(error.body().error.param.as_deref(), param);
        }
        assert!(ModelRequest::parse(Endpoint::Completion, json!({"model": "m", "prompt": "x"})).is_ok());
        assert!(ModelRequest::parse(Endpoint::Completion, json!({"model": "m", "messages": []})).is_err());
    }
}
