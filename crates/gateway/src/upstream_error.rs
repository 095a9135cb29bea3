//! Error answers of replicas. They are read in both shapes that vLLM has had, and never handed on as they are:
//! they name our internal model names and the replica's paths.

use serde_json::Value;

/// Most of an error body that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// An error status with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamError {
    /// HTTP status.
    pub(crate) status: u16,
    /// The replica's words, or the status where it had none.
    pub(crate) message: String,
    /// The field that it blames.
    pub(crate) param: Option<String>,
    /// Value of `retry-after`.
    pub(crate) retry_after: Option<String>,
}

impl UpstreamError {
    /// Reads an error answer; a broken body gives the bare status.
    pub(crate) async fn read(mut response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(ToOwned::to_owned);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Self {
            retry_after,
            ..Self::parse(status, &value)
        }
    }

    /// `{"error": {message, param, …}}`, the older flat `{"message", …}`, or FastAPI's `{"detail"}`.
    pub(crate) fn parse(status: u16, body: &Value) -> Self {
        let inner = if body["error"].is_object() {
            &body["error"]
        } else {
            body
        };
        let message = ["message", "detail", "error"]
            .iter()
            .find_map(|key| inner[*key].as_str());
        let param = inner["param"].as_str();
        Self {
            status,
            message: message.map_or_else(|| format!("status {status}"), unwrapped),
            // FastAPI counts the body as a part of the field's path.
            param: param.map(|param| param.strip_prefix("body.").unwrap_or(param).to_owned()),
            retry_after: None,
        }
    }

    /// vLLM's server outlives its engine for a moment.
    pub(crate) fn is_engine_dead(&self) -> bool {
        self.status == 500 && self.message.contains("EngineCore encountered an issue")
    }

    /// A load of a name that is there already.
    pub(crate) fn is_already_loaded(&self) -> bool {
        self.status == 400 && self.message.contains("already been loaded")
    }

    /// An unload of a name that is not there.
    pub(crate) fn is_not_loaded(&self) -> bool {
        self.status == 404 && self.message.contains("cannot be found")
    }

    /// Whose fault a refused load is. vLLM answers 500 both to adapters that it cannot use and to its own failures, so
    /// the loader's words decide; what they do not settle is tried again.
    pub(crate) fn load_fault(&self) -> LoadFault {
        match self.status {
            401 | 403 => LoadFault::Access,
            // FastAPI's words for a path without a route: the server does not load adapters while it runs.
            404 if self.message.eq_ignore_ascii_case("not found") => LoadFault::NoRoute,
            404 => LoadFault::NoFiles,
            400 | 422 => LoadFault::Adapter,
            500 => {
                let words = self.message.to_ascii_lowercase();
                let settled = ADAPTER_WORDS.iter().any(|word| words.contains(word));
                if settled && !words.contains("out of memory") {
                    LoadFault::Adapter
                } else {
                    LoadFault::Replica
                }
            }
            _ => LoadFault::Replica,
        }
    }

    /// The limit and the number asked for, where the request was longer than the model's context.
    pub(crate) fn context_length(&self) -> Option<ContextLength> {
        let text = self.message.to_ascii_lowercase();
        let phrase = LIMIT_PHRASES
            .iter()
            .find_map(|phrase| text.find(phrase).map(|at| at + phrase.len()))?;
        let limit = numbers(&text[phrase..]).next()?;
        // "you requested 300 tokens", or "300 > 256 - 290", or the prompt's length alone.
        let requested = numbers(&text).filter(|number| *number != limit).max()?;
        let prompt = text
            .split_once("your request has ")
            .and_then(|(_, rest)| numbers(rest).next());
        let asked = text
            .split_once("is too large: ")
            .and_then(|(_, rest)| numbers(rest).next());
        let requested = match (prompt, asked) {
            (Some(prompt), Some(asked)) => prompt + asked,
            _ => requested,
        };
        (requested > limit).then_some(ContextLength { limit, requested })
    }

    /// Its words for a caller: our internal names replaced, and nothing that looks like an address or a path.
    pub(crate) fn public_words(&self, internal: &str, public: &str) -> String {
        let line = self.message.replace(internal, public);
        let line = line.lines().next().unwrap_or_default();
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| if is_private(word) { "[…]" } else { word })
            .collect();
        words.join(" ").chars().take(MOST_PUBLIC_CHARACTERS).collect()
    }
}

/// Longest excerpt of a replica's words.
const MOST_PUBLIC_CHARACTERS: usize = 300;

/// What was meant, out of what vLLM wraps around it.
fn unwrapped(message: &str) -> String {
    // An error of the process that holds the model.
    let inner = message
        .split_once("Worker failed with error '")
        .and_then(|(_, rest)| rest.rsplit_once("', please check the stack trace"));
    if let Some((inner, _)) = inner {
        return inner.to_owned();
    }
    // `1 validation error:`, and below it a Python dictionary for each.
    if !message.contains("validation error") {
        return message.to_owned();
    }
    let sentences = message.split("'msg': ").skip(1).filter_map(|rest| {
        let quote = rest.chars().next()?;
        let (sentence, _) = rest[quote.len_utf8()..].split_once(&format!("{quote}, '"))?;
        Some(sentence.strip_prefix("Value error, ").unwrap_or(sentence))
    });
    let sentences: Vec<&str> = sentences.collect();
    if sentences.is_empty() {
        return message.to_owned();
    }
    sentences.join("; ")
}

/// What loaders say of adapters that they will never take.
const ADAPTER_WORDS: [&str; 16] = [
    "must match the size",
    "contain tensors",
    "deserializ",
    "lora rank",
    "max_lora_rank",
    "dora",
    "lora_bias",
    "modules_to_save",
    "target_modules",
    "target modules",
    "unsupported",
    "not supported",
    "corrupt",
    "safetensors",
    "size mismatch",
    "shape mismatch",
];

/// What comes before the number of tokens that a model has room for.
const LIMIT_PHRASES: [&str; 4] = [
    "maximum context length is",
    "maximum context length (",
    "maximum model length of",
    "max_model_len",
];

fn numbers(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
}

fn is_private(word: &str) -> bool {
    let word =
        word.trim_start_matches(|character: char| !character.is_ascii_alphanumeric() && character != '/');
    word.contains("://") || (word.starts_with('/') && word.len() > 1) || word.matches('/').count() > 1
}

/// Whose fault it is that an adapter was not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadFault {
    /// The replica opened the adapter and found it wrong (rank, modules, damage): a repeat changes nothing.
    Adapter,
    /// The replica does not see the staged files (yet).
    NoFiles,
    /// The replica was started without leave to load adapters.
    NoRoute,
    /// The replica does not accept our key.
    Access,
    /// The replica is busy or broken.
    Replica,
}

/// Numbers of a request that is too long, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContextLength {
    pub(crate) limit: u64,
    pub(crate) requested: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn all_error_shapes_are_read() {
        let nested = json!({"error": {"message": "bad rank", "type": "BadRequestError", "param": "rank", "code": 400}});
        let flat =
            json!({"object": "error", "message": "bad rank", "type": "X", "param": "rank", "code": 400});
        for body in [nested, flat] {
            let error = UpstreamError::parse(400, &body);
            assert_eq!(
                (error.message.as_str(), error.param.as_deref()),
                ("bad rank", Some("rank"))
            );
        }
        assert_eq!(
            UpstreamError::parse(404, &json!({"detail": "Not Found"})).message,
            "Not Found"
        );
        assert_eq!(UpstreamError::parse(500, &Value::Null).message, "status 500");
    }

    #[test]
    fn what_vllm_wraps_is_unwrapped() {
        let worker = "Call to add_lora method failed: Worker failed with error 'LoRA rank 128 is greater than max_lora_rank \
                      64.', please check the stack trace above for the root cause";
        let validation = "1 validation error:\n  {'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, Either prompt \
                          or prompt_embeds must be provided.', 'input': {'prompt': ''}}";
        let quoted = "2 validation errors:\n  {'msg': \"Input should be 'a'\", 'input': 1}\n  {'msg': 'Field required', 'input': {}}";
        for (message, words) in [
            (worker, "LoRA rank 128 is greater than max_lora_rank 64."),
            (validation, "Either prompt or prompt_embeds must be provided."),
            (quoted, "Input should be 'a'; Field required"),
            ("3 validation errors", "3 validation errors"),
        ] {
            let body = json!({"error": {"message": message, "param": "body.seed"}});
            let error = UpstreamError::parse(400, &body);
            assert_eq!(
                (error.message.as_str(), error.param.as_deref()),
                (words, Some("seed"))
            );
        }
    }

    #[test]
    fn each_refusal_of_a_load_has_its_culprit() {
        let nested = |message: &str| json!({"error": {"message": message}});
        for (status, body, fault) in [
            (404, json!({"detail": "Not Found"}), LoadFault::NoRoute),
            (404, nested("No adapter found for /x"), LoadFault::NoFiles),
            (
                400,
                nested("Loading lora x failed: it has DoRA."),
                LoadFault::Adapter,
            ),
            (
                500,
                nested("LoRA rank 64 is greater than max_lora_rank 16"),
                LoadFault::Adapter,
            ),
            (500, nested("vLLM does not yet support DoRA."), LoadFault::Adapter),
            (
                500,
                nested(
                    "The size of tensor a (64) must match the size of tensor b (128) at non-singleton dimension 0",
                ),
                LoadFault::Adapter,
            ),
            (
                500,
                nested("Error while deserializing header: header too large"),
                LoadFault::Adapter,
            ),
            (500, nested("<path> doesn't contain tensors"), LoadFault::Adapter),
            (
                500,
                json!({"message": "CUDA out of memory while reading the tensor of shape [1]"}),
                LoadFault::Replica,
            ),
            (500, nested("EngineCore encountered an issue"), LoadFault::Replica),
            (500, Value::Null, LoadFault::Replica),
            (503, nested("busy"), LoadFault::Replica),
            (401, json!({"error": "Unauthorized"}), LoadFault::Access),
        ] {
            assert_eq!(
                UpstreamError::parse(status, &body).load_fault(),
                fault,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn words_for_callers_name_nothing_of_ours() {
        let message =
            "x--v1-00000000 at /data/cache/adapters: see http://10.0.0.1:8000 (and/or `/etc/x`)\nTraceback";
        let error = UpstreamError::parse(500, &json!({"message": message}));
        let words = error.public_words("x--v1-00000000", "x@1");
        assert_eq!(words, "x@1 at […] see […] (and/or […]");
    }

    #[test]
    fn context_length_keeps_its_numbers() {
        let expected = Some(ContextLength {
            limit: 256,
            requested: 300,
        });
        for message in [
            "This model's maximum context length is 256 tokens. However, you requested 300 tokens (290 in the \
             messages, 10 in the completion).",
            "'max_tokens' or 'max_completion_tokens' is too large: 10. This model's maximum context length is 256 \
             tokens and your request has 290 input tokens (10 > 256 - 290).",
            "The decoder prompt (length 300) is longer than the maximum model length of 256.",
            "Input length (300) exceeds model's maximum context length (256).",
            "this model's maximum context length is 256 tokens, but the prompt contains 300 input tokens",
            "This model's maximum context length is 256 tokens. However, you requested 10 output tokens and your prompt \
             contains at least 290 input tokens, for a total of at least 300 tokens. (parameter=input_tokens, value=290)",
            "max_tokens=300 cannot be greater than max_model_len=max_total_tokens=256. Please request fewer output tokens. \
             (parameter=max_tokens, value=300)",
        ] {
            let error = UpstreamError::parse(400, &json!({"error": {"message": message}}));
            assert_eq!(error.context_length(), expected, "{message}");
        }
        let other = UpstreamError::parse(400, &json!({"message": "temperature is 3"}));
        assert_eq!(other.context_length(), None);
    }
}
