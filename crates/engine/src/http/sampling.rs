//! The fields that chat completions and completions share: how to sample, when to stop, what is not supported.

use serde_json::Value;

use super::{error::ApiError, fields::Fields};
use crate::{generation::Stopping, logits::LogitRules, sampler::Sampling};

/// Most stop strings of one request.
const MOST_STOPS: usize = 16;
/// Longest stop string, in bytes: text of this length may be held back.
const LONGEST_STOP: usize = 1024;
/// Most alternatives whose log-probabilities are reported for each token.
pub(super) const MOST_LOGPROBS: i64 = 20;

/// Most entries of `logit_bias`.
const MOST_BIASES: usize = 1024;
/// Most choices of one prompt.
const MOST_CHOICES: i64 = 64;

/// Fields that would change the text. Each must be absent, null, empty, or one of the values that change nothing.
const UNSUPPORTED: [(&str, &[&str], &str); 9] = [
    ("use_beam_search", &["false"], "it has no beam search"),
    ("bad_words", &[], "it has no list of bad words; use `logit_bias`"),
    ("functions", &[], "it is out of date; use `tools`"),
    (
        "prompt_logprobs",
        &["0"],
        "it reports log-probabilities of generated tokens only",
    ),
    ("truncate_prompt_tokens", &[], "it does not shorten prompts"),
    ("prompt_embeds", &[], "it takes texts and tokens only"),
    ("modalities", &[r#"["text"]"#], "it gives text only"),
    ("audio", &[], "it gives text only"),
    ("web_search_options", &[], "it does not search"),
];

/// Refuses what would silently change the meaning of the request. `more`: further fields, of one endpoint.
///
/// # Errors
/// The first such field.
pub(super) fn refuse_unsupported(fields: &Fields, more: &[(&str, &[&str], &str)]) -> Result<(), ApiError> {
    for (name, harmless, reason) in UNSUPPORTED.iter().chain(more) {
        let Some(value) = fields.get(name) else { continue };
        let empty = match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !empty && !harmless.contains(&value.to_string().as_str()) {
            return Err(ApiError::unsupported(name, reason));
        }
    }
    Ok(())
}

/// Temperature, cuts and seed.
///
/// # Errors
/// A field out of bounds.
pub(super) fn sampling(fields: &Fields) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(Sampling {
        temperature: fields
            .number("temperature", 0.0..=2.0)?
            .unwrap_or(default.temperature),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p),
        // vLLM: -1 and 0 both mean all.
        top_k: top_k
            .and_then(|kept| usize::try_from(kept).ok())
            .filter(|kept| *kept > 0),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        seed: fields
            .integer("seed", i64::MIN..=i64::MAX)?
            .map(i64::cast_unsigned),
        rules: rules(fields)?,
    })
}

fn rules(fields: &Fields) -> Result<LogitRules, ApiError> {
    let default = LogitRules::default();
    let number = |name: &str, bounds, default: f32| -> Result<f32, ApiError> {
        Ok(fields.number(name, bounds)?.unwrap_or(default))
    };
    let allowed = fields.get("allowed_token_ids").map(|value| {
        token_ids(value)
            .filter(|tokens| !tokens.is_empty())
            .ok_or_else(|| {
                let message = "`allowed_token_ids` must be a list of token ids that is not empty.";
                ApiError::invalid("allowed_token_ids", message)
            })
    });
    Ok(LogitRules {
        presence: number("presence_penalty", -2.0..=2.0, default.presence)?,
        frequency: number("frequency_penalty", -2.0..=2.0, default.frequency)?,
        repetition: number("repetition_penalty", 0.01..=10.0, default.repetition)?,
        bias: fields
            .get("logit_bias")
            .map_or_else(|| Ok(Vec::new()), logit_bias)?,
        allowed: allowed.transpose()?,
        min_tokens: fields.count("min_tokens", 0)?.unwrap_or(default.min_tokens),
    })
}

/// `{"token id": bias}`
#[expect(
    clippy::cast_possible_truncation,
    reason = "a bias needs no more than float32"
)]
fn logit_bias(value: &Value) -> Result<Vec<(u32, f32)>, ApiError> {
    let entry = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some((token.parse().ok()?, bias as f32))
    };
    let entries = value.as_object().filter(|entries| entries.len() <= MOST_BIASES);
    let biases: Option<Vec<(u32, f32)>> = entries.and_then(|entries| entries.iter().map(entry).collect());
    biases.ok_or_else(|| {
        let message = format!(
            "`logit_bias` must be an object of at most {MOST_BIASES} token ids, each with a number from -100 to 100."
        );
        ApiError::invalid("logit_bias", message)
    })
}

/// How many choices each prompt gets. `best_of` would pick among more of them than it shows, which this engine does not.
///
/// # Errors
/// Too many, or `best_of` is another number.
pub(super) fn choices(fields: &Fields) -> Result<usize, ApiError> {
    let choices = fields.integer("n", 1..=MOST_CHOICES)?.unwrap_or(1);
    if fields
        .integer("best_of", 1..=i64::MAX)?
        .is_some_and(|best| best != choices)
    {
        let reason = "it shows every choice that it generates, so `best_of` must be `n`";
        return Err(ApiError::unsupported("best_of", reason));
    }
    Ok(usize::try_from(choices).unwrap_or(1))
}

/// Stop strings and tokens.
///
/// # Errors
/// A field of the wrong kind, or too many or too long strings.
pub(super) fn stopping(fields: &Fields) -> Result<Stopping, ApiError> {
    Ok(Stopping {
        strings: stop_strings(fields)?,
        tokens: stop_tokens(fields)?,
        ignore_end_of_sequence: fields.flag("ignore_eos", false)?,
        keep_stop_string: fields.flag("include_stop_str_in_output", false)?,
    })
}

fn stop_strings(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        let message = format!(
            "`stop` must be a text or a list of at most {MOST_STOPS} texts, none empty, none longer than \
             {LONGEST_STOP} bytes."
        );
        ApiError::invalid("stop", message)
    };
    let Some(value) = fields.get("stop") else {
        return Ok(Vec::new());
    };
    let single = std::slice::from_ref(value);
    let items = value.as_array().map_or(single, Vec::as_slice);
    let strings: Option<Vec<String>> = items
        .iter()
        .map(|item| item.as_str().map(ToOwned::to_owned))
        .collect();
    let strings = strings
        .filter(|strings| strings.len() <= MOST_STOPS)
        .ok_or_else(wrong)?;
    let fits = strings
        .iter()
        .all(|stop| (1..=LONGEST_STOP).contains(&stop.len()));
    if fits { Ok(strings) } else { Err(wrong()) }
}

fn stop_tokens(fields: &Fields) -> Result<Vec<u32>, ApiError> {
    let Some(value) = fields.get("stop_token_ids") else {
        return Ok(Vec::new());
    };
    token_ids(value)
        .ok_or_else(|| ApiError::invalid("stop_token_ids", "`stop_token_ids` must be a list of token ids."))
}

/// A list of token ids, if it is one.
#[must_use]
pub(super) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        assert_eq!(sampling(&fields(&json!({}))).unwrap(), Sampling::default());
        assert_eq!(stopping(&fields(&json!({}))).unwrap(), Stopping::default());
    }

    #[test]
    fn all_fields_are_read() {
        let body =
            json!({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1, "stop": "x"});
        let sampled = sampling(&fields(&body)).unwrap();
        assert_eq!((sampled.top_k, sampled.seed), (Some(40), Some(u64::MAX)));
        assert_eq!(stopping(&fields(&body)).unwrap().strings, ["x"]);
        assert_eq!(sampling(&fields(&json!({"top_k": -1}))).unwrap().top_k, None);
        let body = json!({"stop": ["a", "b"], "stop_token_ids": [3], "ignore_eos": true});
        let stop = stopping(&fields(&body)).unwrap();
        assert_eq!((stop.strings.len(), stop.tokens.as_slice()), (2, [3].as_slice()));
        assert!(stop.ignore_end_of_sequence);
    }

    #[test]
    fn what_changes_nothing_passes() {
        let body = json!({
            "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none",
            "response_format": {"type": "text"}, "logprobs": null, "some_future_field": {"a": 1}, "user": "u"
        });
        refuse_unsupported(&fields(&body), &[]).unwrap();
    }

    #[test]
    fn what_changes_the_answer_is_refused_by_name() {
        for body in [
            json!({"use_beam_search": true}),
            json!({"bad_words": ["x"]}),
            json!({"prompt_logprobs": 1}),
            json!({"functions": [{"name": "f"}]}),
        ] {
            let name = body.as_object().unwrap().keys().next().unwrap();
            let error = refuse_unsupported(&fields(&body), &[]).unwrap_err();
            assert_eq!(error.body().error.param.as_ref(), Some(name));
        }
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for body in [
            json!({"temperature": -0.1}),
            json!({"temperature": 2.5}),
            json!({"top_p": 1.5}),
            json!({"top_k": 1.5}),
            json!({"min_p": -1}),
            json!({"presence_penalty": 2.5}),
            json!({"repetition_penalty": 0}),
            json!({"logit_bias": {"a": 1}}),
            json!({"logit_bias": {"5": 101}}),
            json!({"allowed_token_ids": []}),
            json!({"min_tokens": -1}),
            json!({"n": 0}),
            json!({"n": 2, "best_of": 3}),
            json!({"seed": "a"}),
            json!({"stop": ""}),
            json!({"stop": [1]}),
            json!({"stop": vec!["x"; 17]}),
            json!({"stop_token_ids": [-1]}),
        ] {
            let name = body.as_object().unwrap().keys().next().unwrap();
            let read = fields(&body);
            let error = sampling(&read)
                .map(drop)
                .and_then(|()| stopping(&read).map(drop))
                .and_then(|()| choices(&read).map(drop))
                .unwrap_err();
            let name = if body.get("best_of").is_some() {
                "best_of"
            } else {
                name.as_str()
            };
            assert_eq!(error.body().error.param.as_deref(), Some(name), "{body}");
        }
    }
}
