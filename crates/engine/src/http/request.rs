//! What both generating endpoints ask for, apart from the prompt.

use super::{
    calls::CallReading,
    error::ApiError,
    fields::Fields,
    grammar::{self, RequestedGrammar},
    sampling::{choices, refuse_unsupported, sampling, stopping},
};
use crate::{generation::Stopping, sampler::Sampling};

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream {
        /// Whether a last chunk counts the tokens.
        include_usage: bool,
    },
}

/// The fields of chat completions and completions that mean the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// The base model's name, or an adapter's.
    pub(super) model: String,
    /// Most tokens to generate, if said.
    pub(super) max_tokens: Option<usize>,
    /// How many choices each prompt gets.
    pub(super) choices: usize,
    /// How tokens are picked.
    pub(super) sampling: Sampling,
    /// When to stop.
    pub(super) stopping: Stopping,
    /// What the text must follow.
    pub(super) grammar: Option<RequestedGrammar>,
    /// How calls of tools are found in the answer, where there may be some.
    pub(super) calls: Option<CallReading>,
    /// Whether special tokens stay out of the text.
    pub(super) skip_special_tokens: bool,
    /// How the answer is sent.
    pub(super) delivery: Delivery,
    /// As in [`crate::generation::Generation::logprobs`].
    pub(super) logprobs: Option<usize>,
}

impl Request {
    /// Reads the shared fields. `unsupported`: fields to refuse besides the shared ones.
    ///
    /// # Errors
    /// The first field that is missing, wrong or unsupported.
    pub(super) fn read(
        fields: &Fields,
        logprobs: Option<usize>,
        unsupported: &[(&str, &[&str], &str)],
    ) -> Result<Self, ApiError> {
        refuse_unsupported(fields, unsupported)?;
        let newer = fields.count("max_completion_tokens", 1)?;
        Ok(Self {
            model: fields.required_text("model")?.to_owned(),
            max_tokens: newer.or(fields.count("max_tokens", 0)?),
            choices: choices(fields)?,
            sampling: sampling(fields)?,
            stopping: stopping(fields)?,
            grammar: grammar::read(fields)?,
            calls: None,
            skip_special_tokens: fields.flag("skip_special_tokens", true)?,
            delivery: delivery(fields)?,
            logprobs,
        })
    }
}

fn delivery(fields: &Fields) -> Result<Delivery, ApiError> {
    let stream = fields.flag("stream", false)?;
    let include_usage = match fields.get("stream_options") {
        None => false,
        Some(_) if !stream => {
            let message = "`stream_options` is only for `stream: true`.";
            return Err(ApiError::invalid("stream_options", message));
        }
        Some(options) if options.is_object() => options["include_usage"].as_bool().unwrap_or(false),
        Some(_) => {
            return Err(ApiError::invalid(
                "stream_options",
                "`stream_options` must be an object.",
            ));
        }
    };
    Ok(if stream {
        Delivery::Stream { include_usage }
    } else {
        Delivery::Whole
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn read(body: &serde_json::Value) -> Result<Request, ApiError> {
        Request::read(&Fields::parse(body.to_string().as_bytes())?, None, &[])
    }

    #[test]
    fn the_newer_name_of_the_limit_wins() {
        let body = json!({"model": "m", "max_tokens": 5, "max_completion_tokens": 7});
        assert_eq!(read(&body).unwrap().max_tokens, Some(7));
        assert_eq!(
            read(&json!({"model": "m", "max_tokens": 5})).unwrap().max_tokens,
            Some(5)
        );
        assert_eq!(read(&json!({"model": "m"})).unwrap().max_tokens, None);
    }

    #[test]
    fn delivery_follows_stream_and_its_options() {
        let stream = |include_usage| Delivery::Stream { include_usage };
        for (body, expected) in [
            (json!({"model": "m"}), Delivery::Whole),
            (json!({"model": "m", "stream": true}), stream(false)),
            (
                json!({"model": "m", "stream": true, "stream_options": {}}),
                stream(false),
            ),
            (
                json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}}),
                stream(true),
            ),
        ] {
            assert_eq!(read(&body).unwrap().delivery, expected, "{body}");
        }
        assert!(read(&json!({"model": "m", "stream_options": {"include_usage": true}})).is_err());
    }

    #[test]
    fn the_model_is_required() {
        for body in [
            json!({}),
            json!({"model": null}),
            json!({"model": ""}),
            json!({"model": 3}),
        ] {
            assert_eq!(
                read(&body).unwrap_err().body().error.param.as_deref(),
                Some("model")
            );
        }
    }
}
