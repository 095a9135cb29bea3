//! The fields that say how tokens are picked, when generation ends, and how the answer is sent.

use serde_json::Value;

use super::{
    Endpoint,
    fields::{Fields, invalid, is_token_ids},
};
use crate::GatewayError;

/// OpenAI's bound.
const MOST_CHOICES: i64 = 128;
/// OpenAI takes 4, vLLM any number; this is what our engine takes.
const MOST_STOPS: usize = 16;
/// Text of the length of a stop string may be held back while it is sent.
const LONGEST_STOP: usize = 1024;
const MOST_BIASES: usize = 1024;
/// OpenAI's and vLLM's bound for alternatives of a token.
const MOST_LOGPROBS: i64 = 20;

/// Checks them all.
pub(super) fn check(endpoint: Endpoint, fields: &Fields<'_>) -> Result<(), GatewayError> {
    check_numbers(fields)?;
    check_counts(endpoint, fields)?;
    for flag in ["ignore_eos", "skip_special_tokens", "include_stop_str_in_output"] {
        fields.flag(flag)?;
    }
    fields.text("user")?;
    check_stops(fields)?;
    check_biases(fields)?;
    check_logprobs(endpoint, fields)?;
    check_stream(fields)
}

fn check_numbers(fields: &Fields<'_>) -> Result<(), GatewayError> {
    let between = |low: f64, high: f64| move |number: f64| (low..=high).contains(&number);
    fields.number("temperature", "a number from 0 to 2", between(0.0, 2.0))?;
    fields.number("top_p", "a number above 0 and at most 1", |number| {
        number > 0.0 && number <= 1.0
    })?;
    fields.number("min_p", "a number from 0 to 1", between(0.0, 1.0))?;
    for penalty in ["presence_penalty", "frequency_penalty"] {
        fields.number(penalty, "a number from -2 to 2", between(-2.0, 2.0))?;
    }
    fields.number("repetition_penalty", "a number above 0 and at most 2", |number| {
        number > 0.0 && number <= 2.0
    })
}

fn check_counts(endpoint: Endpoint, fields: &Fields<'_>) -> Result<(), GatewayError> {
    // A completion may consist of its prompt alone.
    let is_echo = endpoint == Endpoint::Completion && fields.flag("echo")?.unwrap_or(false);
    if endpoint == Endpoint::Completion && !is_echo && fields.get("max_tokens") == Some(&Value::from(0)) {
        let message = "`max_tokens` must be at least 1, or 0 beside `\"echo\": true`, for the prompt alone.";
        return Err(invalid("max_tokens", message));
    }
    fields.integer("max_tokens", i64::from(!is_echo)..=i64::MAX)?;
    fields.integer("min_tokens", 0..=i64::MAX)?;
    fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    fields.integer("seed", i64::MIN..=i64::MAX)?;
    fields.integer("n", 1..=MOST_CHOICES).map(drop)
}

fn check_stops(fields: &Fields<'_>) -> Result<(), GatewayError> {
    if let Some(value) = fields.get("stop") {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let is_stop = |item: &Value| {
            item.as_str()
                .is_some_and(|stop| (1..=LONGEST_STOP).contains(&stop.len()))
        };
        if items.len() > MOST_STOPS || !items.iter().all(is_stop) {
            let message = format!(
                "`stop` must be a text or a list of at most {MOST_STOPS} texts, none empty, none longer than {LONGEST_STOP} bytes."
            );
            return Err(invalid("stop", message));
        }
    }
    match fields.get("stop_token_ids") {
        Some(ids) if !is_token_ids(ids) => Err(invalid(
            "stop_token_ids",
            "`stop_token_ids` must be a list of token ids.",
        )),
        _ => Ok(()),
    }
}

fn check_biases(fields: &Fields<'_>) -> Result<(), GatewayError> {
    let Some(biases) = fields.object("logit_bias")? else {
        return Ok(());
    };
    let is_bias = |(token, bias): (&String, &Value)| {
        token.parse::<u32>().is_ok() && bias.as_f64().is_some_and(|bias| (-100.0..=100.0).contains(&bias))
    };
    if biases.len() > MOST_BIASES || !biases.iter().all(is_bias) {
        let message = format!(
            "`logit_bias` must map at most {MOST_BIASES} token ids, as texts of digits, to numbers from -100 to 100."
        );
        return Err(invalid("logit_bias", message));
    }
    Ok(())
}

/// For chats `logprobs` is a switch and `top_logprobs` a number; for completions `logprobs` is the number.
fn check_logprobs(endpoint: Endpoint, fields: &Fields<'_>) -> Result<(), GatewayError> {
    if endpoint == Endpoint::Completion {
        return fields.integer("logprobs", 0..=MOST_LOGPROBS).map(drop);
    }
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.integer("top_logprobs", 0..=MOST_LOGPROBS)?;
    if alternatives.is_some_and(|count| count > 0) && !wanted {
        return Err(invalid(
            "top_logprobs",
            "`top_logprobs` needs `\"logprobs\": true`.",
        ));
    }
    Ok(())
}

fn check_stream(fields: &Fields<'_>) -> Result<(), GatewayError> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(options) = fields.get("stream_options") else {
        return Ok(());
    };
    if !stream {
        return Err(invalid(
            "stream_options",
            "`stream_options` is only for `\"stream\": true`.",
        ));
    }
    let options = Fields::inside(options, "stream_options")?;
    options.flag("include_usage")?;
    options.flag("continuous_usage_stats").map(drop)
}
