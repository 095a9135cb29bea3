//! Bodies of inference requests: every field is checked, and only those that we know are handed to a replica. A field
//! that we know but whose meaning we cannot grant is refused by its name, because leaving it out would change the answer
//! in silence; other unknown fields are left out, as OpenAI's own extensions come and go.

mod fields;
mod messages;
mod sampling;
mod tools;

use serde_json::{Map, Value};

use self::fields::{Fields, invalid, is_token_ids};
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

/// Most prompts of one completion.
const MOST_PROMPTS: usize = 64;

/// Fields that would change the answer and that no replica of ours is let see: each with the values, as JSON, that
/// change nothing, and why not.
const REFUSED: &[(&str, &[&str], &str)] = &[
    (
        "chat_template",
        &[],
        "a model is always called with the template it was trained with",
    ),
    ("functions", &["[]"], "it is out of date; use `tools`"),
    (
        "function_call",
        &["\"none\""],
        "it is out of date; use `tool_choice`",
    ),
    ("modalities", &["[\"text\"]"], "the models here give texts only"),
    ("audio", &[], "the models here give texts only"),
    ("web_search_options", &[], "the models here do not search"),
    ("documents", &["[]"], "put the documents into the messages"),
    ("prompt_embeds", &[], "prompts are texts or token ids"),
    (
        "prompt_logprobs",
        &[],
        "log-probabilities are of generated tokens only",
    ),
    ("truncate_prompt_tokens", &[], "shorten the prompt yourself"),
    ("use_beam_search", &["false"], "tokens are sampled"),
    ("logits_processors", &[], "requests bring no code"),
    ("guided_json", &[], "use `response_format`"),
    ("guided_regex", &[], "use `response_format`"),
    ("guided_choice", &[], "use `response_format`"),
    ("guided_grammar", &[], "use `response_format`"),
    ("structured_outputs", &[], "use `response_format`"),
];

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
    /// The first field that breaks its rule, or whose meaning we cannot grant.
    pub(crate) fn parse(endpoint: Endpoint, body: Value) -> Result<Self, GatewayError> {
        let Value::Object(mut map) = body else {
            return Err(GatewayError::Invalid {
                param: None,
                message: "The body must be a JSON object.".to_owned(),
            });
        };
        let fields = Fields::new(&map);
        let model = match fields.get("model").and_then(Value::as_str) {
            Some(model) if !model.is_empty() => model.to_owned(),
            _ => {
                let message = "`model` must name a deployment or a base model.";
                return Err(invalid("model", message));
            }
        };
        refuse(&fields)?;
        sampling::check(endpoint, &fields)?;
        let messages = match endpoint {
            Endpoint::Chat => Some(check_chat(&fields)?),
            Endpoint::Completion => {
                check_completion(&fields)?;
                None
            }
        };
        let stream = fields.flag("stream")?.unwrap_or(false);
        map.remove("model");
        map.retain(|field, value| endpoint.allows(field) && !value.is_null());
        if let Some(messages) = messages {
            map.insert("messages".to_owned(), messages);
        }
        Ok(Self {
            endpoint,
            model,
            stream,
            fields: map,
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

fn refuse(fields: &Fields<'_>) -> Result<(), GatewayError> {
    for (name, harmless, reason) in REFUSED {
        if let Some(value) = fields.get(name)
            && !harmless.contains(&value.to_string().as_str())
        {
            return Err(invalid(name, format!("`{name}` is not accepted: {reason}.")));
        }
    }
    Ok(())
}

/// Gives the messages as they are handed on.
fn check_chat(fields: &Fields<'_>) -> Result<Value, GatewayError> {
    let messages = messages::read(fields)?;
    fields.integer("max_completion_tokens", 1..=i64::MAX)?;
    tools::check(fields)?;
    tools::check_response_format(fields)?;
    let kwargs = fields.object("chat_template_kwargs")?;
    if kwargs.is_some_and(|kwargs| kwargs.contains_key("chat_template")) {
        let message = "`chat_template_kwargs` must not bring a template.";
        return Err(invalid("chat_template_kwargs", message));
    }
    // OpenAI's clients send neither; vLLM's default is to begin an answer.
    let begins = fields.flag("add_generation_prompt")?;
    if fields.flag("continue_final_message")?.unwrap_or(false) && begins.unwrap_or(true) {
        let message = "`continue_final_message` needs `\"add_generation_prompt\": false`.";
        return Err(invalid("continue_final_message", message));
    }
    Ok(messages)
}

fn check_completion(fields: &Fields<'_>) -> Result<(), GatewayError> {
    fields.flag("echo")?;
    fields.text("suffix")?;
    let choices = fields.integer("n", 1..=i64::MAX)?.unwrap_or(1);
    // vLLM passes over it in silence, and our engine shows every choice that it generates.
    if fields
        .integer("best_of", 1..=i64::MAX)?
        .is_some_and(|best_of| best_of != choices)
    {
        let message = "`best_of` must be `n`: the models here show every choice that they generate.";
        return Err(invalid("best_of", message));
    }
    let is_prompt =
        |prompt: &Value| prompt.is_string() || (is_token_ids(prompt) && prompt != &Value::Array(Vec::new()));
    match fields.get("prompt") {
        Some(prompt) if is_prompt(prompt) => Ok(()),
        Some(Value::Array(prompts))
            if (1..=MOST_PROMPTS).contains(&prompts.len()) && prompts.iter().all(is_prompt) =>
        {
            Ok(())
        }
        _ => {
            let message = format!(
                "`prompt` must be a text, a list of token ids, or a list of 1 to {MOST_PROMPTS} of these."
            );
            Err(invalid("prompt", message))
        }
    }
}

#[cfg(test)]
mod tests;
