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
        Self {
            status,
            message: message.map_or_else(|| format!("status {status}"), ToOwned::to_owned),
            param: inner["param"].as_str().map(ToOwned::to_owned),
            retry_after: None,
        }
    }

    /// A load of a name that is there already.
    pub(crate) fn is_already_loaded(&self) -> bool {
        self.status == 400 && self.message.contains("already been loaded")
    }

    /// The replica opened the adapter and found it wrong (rank, modules, damage): a repeat changes nothing.
    /// A 404 of the route itself is the replica's configuration, not the adapter's fault.
    pub(crate) fn is_about_the_adapter(&self) -> bool {
        match self.status {
            400 => true,
            404 => !self.message.eq_ignore_ascii_case("not found"),
            500 => self.message != "status 500",
            _ => false,
        }
    }

    /// The limit and the number asked for, where the request was longer than the model's context.
    pub(crate) fn context_length(&self) -> Option<ContextLength> {
        let text = self.message.to_ascii_lowercase();
        if !(text.contains("context length")
            || text.contains("maximum model length")
            || text.contains("max_model_len"))
        {
            return None;
        }
        let mut numbers = text
            .split(|character: char| !character.is_ascii_digit())
            .filter_map(|digits| digits.parse::<u64>().ok());
        let first = numbers.next()?;
        let rest = numbers.max()?;
        Some(ContextLength {
            limit: first.min(rest),
            requested: first.max(rest),
        })
    }
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
    fn a_missing_route_is_not_the_adapters_fault() {
        assert!(!UpstreamError::parse(404, &json!({"detail": "Not Found"})).is_about_the_adapter());
        assert!(
            UpstreamError::parse(404, &json!({"error": {"message": "No adapter found at /x"}}))
                .is_about_the_adapter()
        );
        assert!(!UpstreamError::parse(503, &json!({"error": {"message": "busy"}})).is_about_the_adapter());
    }

    #[test]
    fn context_length_keeps_its_numbers() {
        let message = "This model's maximum context length is 256 tokens. However, you requested 300 tokens \
                       (290 in the messages, 10 in the completion).";
        let error = UpstreamError::parse(400, &json!({"error": {"message": message}}));
        assert_eq!(
            error.context_length(),
            Some(ContextLength {
                limit: 256,
                requested: 300
            })
        );
        assert_eq!(
            UpstreamError::parse(400, &json!({"message": "temperature is 3"})).context_length(),
            None
        );
    }
}
