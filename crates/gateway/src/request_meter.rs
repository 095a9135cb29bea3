//! What is known of one request while it runs. However it ends (answered, failed, its caller gone), it leaves one
//! record in the [`Meter`].

use std::time::Instant;

use serde_json::Value;
use tunesmith_store::requests::MeteredRequest;
use tunesmith_types::{ids::OrganizationId, states::RequestStatus};
use uuid::Uuid;

use crate::{
    GatewayError,
    metering::Meter,
    request::{Endpoint, ModelRequest},
    resolve::Target,
    shadow::{Mirrored, Mirrors},
};

/// Longest text of an answer that is compared with a shadow's.
const LONGEST_TEXT: usize = 1024 * 1024;

/// Tokens, as far as a replica said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: Option<i64>,
    pub(crate) completion: Option<i64>,
    pub(crate) cached: Option<i64>,
}

impl Tokens {
    /// Out of an answer's `usage`.
    pub(crate) fn read(usage: &Value) -> Self {
        Self {
            prompt: usage["prompt_tokens"].as_i64(),
            completion: usage["completion_tokens"].as_i64(),
            cached: usage["prompt_tokens_details"]["cached_tokens"].as_i64(),
        }
    }
}

/// The meter of one request.
#[derive(Debug)]
pub(crate) struct RequestMeter {
    /// The digits of the answer's id.
    pub(crate) id: Uuid,
    meter: Meter,
    mirrors: Mirrors,
    organization: OrganizationId,
    model: String,
    endpoint: Endpoint,
    streamed: bool,
    started: Instant,
    target: Option<Target>,
    first_token_ms: Option<f64>,
    /// Pieces of the answer; each is at least one token.
    pieces: i64,
    tokens: Tokens,
    ended: bool,
    /// The request and the beginning of its answer, where it is to be mirrored.
    mirrored: Option<(ModelRequest, String)>,
}

impl RequestMeter {
    pub(crate) fn new(
        meter: Meter,
        mirrors: Mirrors,
        organization: OrganizationId,
        request: &ModelRequest,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            meter,
            mirrors,
            organization,
            model: request.model.clone(),
            endpoint: request.endpoint,
            streamed: request.stream,
            started: Instant::now(),
            target: None,
            first_token_ms: None,
            pieces: 0,
            tokens: Tokens::default(),
            ended: false,
            mirrored: None,
        }
    }

    /// The answer's id, as the caller sees it.
    pub(crate) fn answer_id(&self) -> String {
        let prefix = match self.endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completion => "cmpl",
        };
        format!("{prefix}-{}", self.id.simple())
    }

    /// The request goes to `target`.
    pub(crate) fn route(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// A replica has taken the request; a share of the requests is mirrored.
    pub(crate) fn accepted(&mut self, request: &ModelRequest) {
        let snapshot = self.target.as_ref().and_then(|target| target.snapshot.as_ref());
        let percent = snapshot
            .and_then(|snapshot| snapshot.mirror.as_ref())
            .map_or(0, |mirror| mirror.weight);
        // The last digits of the id are random.
        if self.id.as_u128() % 100 < u128::from(percent) {
            self.mirrored = Some((request.clone(), String::new()));
        }
    }

    /// The replica's whole answer.
    pub(crate) fn whole(&mut self, answer: &Value) {
        self.tokens = Tokens::read(&answer["usage"]);
        self.keep_text(answer);
        self.end(RequestStatus::Ok, None);
    }

    /// A piece of the replica's answer.
    pub(crate) fn piece(&mut self, chunk: &Value) {
        if chunk["usage"].is_object() {
            self.tokens = Tokens::read(&chunk["usage"]);
        }
        if has_token(chunk) {
            self.pieces += 1;
            self.first_token_ms
                .get_or_insert(self.started.elapsed().as_secs_f64() * 1_000.0);
            self.keep_text(chunk);
        }
    }

    fn keep_text(&mut self, answer: &Value) {
        if let Some((_, text)) = &mut self.mirrored
            && text.len() < LONGEST_TEXT
        {
            text.push_str(text_of(answer));
        }
    }

    /// The answer is complete.
    pub(crate) fn done(&mut self) {
        self.end(RequestStatus::Ok, None);
    }

    /// There is no answer, or no whole one.
    pub(crate) fn failed(&mut self, error: &GatewayError) {
        let status = if error.is_rejection() {
            RequestStatus::Rejected
        } else {
            RequestStatus::Error
        };
        self.end(status, error.body().error.code);
    }

    fn end(&mut self, status: RequestStatus, error_code: Option<String>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Some(target) = self.target.take() else {
            // Nobody's model was asked for.
            return;
        };
        let counted = (self.streamed && self.pieces > 0).then_some(self.pieces);
        let record = MeteredRequest {
            completion_tokens: self.tokens.completion.or(counted),
            first_token_ms: self.first_token_ms,
            ..self.record(&target, status, error_code)
        };
        self.meter.record(record);
        if let Some((request, text)) = self.mirrored.take().filter(|_| status == RequestStatus::Ok) {
            self.mirror(&target, request, text);
        }
    }

    fn record(&self, target: &Target, status: RequestStatus, error_code: Option<String>) -> MeteredRequest {
        MeteredRequest {
            id: self.id,
            organization_id: self.organization,
            model: self.model.clone(),
            base_model_id: target.base,
            deployment_id: target.snapshot.as_ref().map(|snapshot| snapshot.deployment),
            revision_number: target.snapshot.as_ref().map(|snapshot| snapshot.revision),
            adapter_version_id: target.arm.version,
            version: target.arm.label.clone(),
            endpoint: match self.endpoint {
                Endpoint::Chat => "chat",
                Endpoint::Completion => "completion",
            },
            streamed: self.streamed,
            status,
            error_code,
            prompt_tokens: self.tokens.prompt,
            completion_tokens: self.tokens.completion,
            cached_tokens: self.tokens.cached,
            first_token_ms: None,
            duration_ms: self.started.elapsed().as_secs_f64() * 1_000.0,
            mirror: None,
            age_seconds: 0.0,
        }
    }

    fn mirror(&self, target: &Target, request: ModelRequest, text: String) {
        let snapshot = target.snapshot.as_ref();
        let Some(arm) = snapshot.and_then(|snapshot| snapshot.mirror.clone()) else {
            return;
        };
        let shadowed = Target {
            arm,
            ..target.clone()
        };
        let record = MeteredRequest {
            prompt_tokens: None,
            completion_tokens: None,
            cached_tokens: None,
            streamed: false,
            ..self.record(&shadowed, RequestStatus::Dropped, None)
        };
        let mirrored = Mirrored {
            request,
            target: shadowed,
            text,
            record,
        };
        self.mirrors.offer(mirrored, &self.meter);
    }
}

impl Drop for RequestMeter {
    fn drop(&mut self) {
        self.end(RequestStatus::Cancelled, None);
    }
}

/// Whether a chunk carries a part of the answer, rather than only a role or an end.
fn has_token(chunk: &Value) -> bool {
    let Some(choices) = chunk["choices"].as_array() else {
        return false;
    };
    let said = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    choices.iter().any(|choice| {
        said(&choice["text"])
            || said(&choice["delta"]["content"])
            || said(&choice["delta"]["reasoning_content"])
            || choice["delta"]["tool_calls"].is_array()
    })
}

/// The text of the first choice, of a whole answer or a piece.
pub(crate) fn text_of(answer: &Value) -> &str {
    let choice = &answer["choices"][0];
    let content = &choice["message"]["content"];
    [content, &choice["delta"]["content"], &choice["text"]]
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or_default()
}
