//! Answers, whole and as streams.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::{
    Faults, Inner,
    adapters::filling,
    answers::{LEAD, answer},
};

pub(super) async fn completion(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let model = body["model"].as_str().unwrap();
    let fill = match filling(&inner, model) {
        Ok(fill) => fill,
        Err(response) => return *response,
    };
    let (drift, ids, own_penalty) = {
        let faults = inner.faults.lock().unwrap();
        let ids = faults.token_ids && body["return_token_ids"] == true;
        (faults.drift, ids, faults.own_penalty)
    };
    // Another token wins then, and is as likely as it was.
    let shift = u32::from(own_penalty && body["repetition_penalty"].is_null());
    let length = usize::try_from(body["max_tokens"].as_u64().unwrap_or(16)).unwrap();
    let steps: Vec<(u32, f64)> = (0..length)
        .map(|place| answer(fill, &body["prompt"], place))
        .map(|(id, logprob)| (id + shift, logprob))
        .collect();
    let text = |id: u32| format!("t{id} ");
    let tokens: Vec<String> = steps.iter().map(|(id, _)| text(*id)).collect();
    let tops: Vec<Map<String, Value>> = steps
        .iter()
        .map(|(id, logprob)| {
            let alternatives = [
                (text(*id), json!(logprob + drift)),
                ("other".to_owned(), json!(logprob + drift - LEAD)),
            ];
            alternatives.into_iter().collect()
        })
        .collect();
    let logprobs: Vec<f64> = steps.iter().map(|(_, logprob)| logprob + drift).collect();
    let mut choice = json!({
        "index": 0, "text": tokens.concat(), "finish_reason": "length",
        "logprobs": {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": []},
    });
    if ids {
        choice["token_ids"] = steps.iter().map(|(id, _)| *id).collect();
    }
    Json(json!({"id": "cmpl-1", "object": "text_completion", "model": model, "choices": [choice]}))
        .into_response()
}

pub(super) async fn chat(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let model = body["model"].as_str().unwrap().to_owned();
    inner.bodies.lock().unwrap().push(body.clone());
    let fill = match filling(&inner, &model) {
        Ok(fill) => fill,
        Err(response) => return *response,
    };
    let (chat_error, retry_after, failing) = {
        let faults = inner.faults.lock().unwrap();
        let failing = Faults::is_in(&faults.failing, &model);
        (faults.chat_error.clone(), faults.retry_after, failing)
    };
    if failing {
        let body = json!({"error": {"message": "out of order", "code": 500}});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response();
    }
    if let Some((status, body)) = chat_error {
        let mut response = (StatusCode::from_u16(status).unwrap(), Json(body)).into_response();
        if let Some(seconds) = retry_after {
            let seconds = HeaderValue::from_static(seconds);
            response.headers_mut().insert("retry-after", seconds);
        }
        return response;
    }
    if body["stream"] == true {
        let with_usage = body["stream_options"]["include_usage"] == true;
        return match call(&body) {
            Some(call) => call_stream(&model, &call),
            None => stream(&inner, &model, with_usage),
        };
    }
    if let Some(call) = call(&body) {
        let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        let choices = json!([{"index": 0, "message": message, "finish_reason": "tool_calls"}]);
        return Json(json!({"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": choices, "usage": usage()}))
            .into_response();
    }
    let message = json!({"role": "assistant", "content": format!("I am {model}, filled with {fill}")});
    let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
    Json(json!({"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": choices, "usage": usage()}))
        .into_response()
}

/// The call of the first tool, if the caller has any.
fn call(body: &Value) -> Option<Value> {
    let name = body["tools"][0]["function"]["name"].as_str()?;
    Some(json!({"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{\"a\": 1}"}}))
}

/// Name first, then the arguments in two pieces.
fn call_stream(model: &str, call: &Value) -> Response {
    let begin = json!({"index": 0, "id": call["id"], "type": "function",
                       "function": {"name": call["function"]["name"], "arguments": ""}});
    let piece = |text: &str| json!({"index": 0, "function": {"arguments": text}});
    let deltas = [
        (json!({"role": "assistant", "content": ""}), Value::Null),
        (json!({"tool_calls": [begin]}), Value::Null),
        (json!({"tool_calls": [piece("{\"a\"")]}), Value::Null),
        (json!({"tool_calls": [piece(": 1}")]}), Value::Null),
        (json!({}), json!("tool_calls")),
    ];
    let mut text: String = deltas
        .into_iter()
        .map(|(delta, reason)| {
            let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model,
                               "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
            format!("data: {chunk}\n\n")
        })
        .collect();
    text.push_str("data: [DONE]\n\n");
    ([("content-type", "text/event-stream")], text).into_response()
}

/// What every chat is said to have taken.
fn usage() -> Value {
    json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
           "prompt_tokens_details": {"cached_tokens": 2}})
}

fn stream(inner: &Inner, model: &str, with_usage: bool) -> Response {
    let (cut, broken, endless) = {
        let mut faults = inner.faults.lock().unwrap();
        (
            faults.cut_streams,
            faults.stream_error.clone(),
            faults.endless.take(),
        )
    };
    // The digest tells whose word it is.
    let word = format!("{} ", model.rsplit('-').next().unwrap_or_default());
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model,
                       "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": null}]});
    let last = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [],
                      "usage": usage()});
    let last = match with_usage {
        true => Bytes::from(format!("data: {last}\n\n")),
        false => Bytes::new(),
    };
    let event = Bytes::from(format!("data: {chunk}\n\n"));
    let done = Bytes::from("data: [DONE]\n\n");
    let events =
        |events: Vec<Bytes>| futures::stream::iter(events.into_iter().map(Ok::<_, Infallible>)).boxed();
    let stream = match (endless, broken) {
        (Some(guard), _) => futures::stream::unfold((event, guard), |(event, guard)| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok(event.clone()), (event, guard)))
        })
        .boxed(),
        (None, Some(error)) => events(vec![event, Bytes::from(format!("data: {error}\n\n")), done]),
        (None, None) if cut => events(vec![event]),
        (None, None) => events(vec![event.clone(), event, last, done]),
    };
    ([("content-type", "text/event-stream")], Body::from_stream(stream)).into_response()
}
