#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn chat(extra: Value) -> Value {
    with(
        json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        extra,
    )
}

fn completion(extra: Value) -> Value {
    with(json!({"model": "m", "prompt": "x"}), extra)
}

fn with(mut body: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!() };
    body.as_object_mut().unwrap().extend(extra);
    body
}

fn messages(messages: Value) -> Value {
    json!({"model": "m", "messages": messages})
}

fn tool(function: Value) -> Value {
    json!({"type": "function", "function": function})
}

#[track_caller]
fn refused(endpoint: Endpoint, body: Value, param: &str) {
    let shown = body.to_string();
    let error = ModelRequest::parse(endpoint, body)
        .expect_err(&shown)
        .body()
        .error;
    assert_eq!(error.param.as_deref(), Some(param), "{shown}");
    assert!(error.message.contains(&format!("`{param}`")), "{}", error.message);
    assert!(error.message.ends_with('.'), "{}", error.message);
}

#[test]
fn unknown_fields_and_nulls_are_dropped() {
    let body =
        chat(json!({"seed": 1, "top_p": null, "store": true, "lora_path": "/etc", "cache_salt": "mine"}));
    let request = ModelRequest::parse(Endpoint::Chat, body).unwrap();
    assert_eq!(
        request.body("a--v1-01234567"),
        json!({"model": "a--v1-01234567", "messages": [{"role": "user", "content": "x"}], "seed": 1})
    );
    assert!(!request.stream);
}

#[test]
fn the_model_and_the_body_must_be_there() {
    assert!(
        ModelRequest::parse(Endpoint::Chat, json!([]))
            .unwrap_err()
            .body()
            .error
            .param
            .is_none()
    );
    let message = json!([{"role": "user", "content": "x"}]);
    for model in [json!(null), json!(""), json!(3)] {
        refused(
            Endpoint::Chat,
            json!({"model": model, "messages": message}),
            "model",
        );
    }
}

#[test]
fn each_bound_of_a_field_is_kept() {
    // The field; what is taken; what is not.
    let table = [
        ("temperature", json!([0, 2, 0.7]), json!([-0.1, 2.1, "1", true])),
        ("top_p", json!([0.01, 1]), json!([0, 1.5, [1]])),
        ("min_p", json!([0, 1]), json!([-1, 2])),
        ("presence_penalty", json!([-2, 2]), json!([-2.5, "0"])),
        ("frequency_penalty", json!([-2, 2]), json!([2.5])),
        ("repetition_penalty", json!([0.5, 2]), json!([0, 2.5])),
        ("max_tokens", json!([1, 100_000]), json!([0, -1, 1.5, "1"])),
        ("min_tokens", json!([0]), json!([-1])),
        ("top_k", json!([-1, 0, 50]), json!([-2, 1.5])),
        ("n", json!([1, 128]), json!([0, 129, 1.5])),
        ("seed", json!([0, -1, i64::MAX]), json!([1.5, "a", u64::MAX])),
        (
            "stop",
            json!(["x", ["x", "y"], []]),
            json!([3, [""], [1], vec!["x"; 17]]),
        ),
        ("stop_token_ids", json!([[1, 2], []]), json!([["1"], [-1], 1])),
        (
            "logit_bias",
            json!([{"50": -100}, {}]),
            json!([{"50": 101}, {"x": 1}, {"5": "1"}, [1]]),
        ),
        ("user", json!(["ada"]), json!([3])),
        ("ignore_eos", json!([true]), json!([1])),
        ("skip_special_tokens", json!([false]), json!(["no"])),
        ("include_stop_str_in_output", json!([false]), json!([0])),
        ("stream", json!([false, true]), json!(["yes", 1])),
    ];
    for (field, good, bad) in table {
        for body in [chat as fn(Value) -> Value, completion] {
            let endpoint = if body(json!({}))["prompt"].is_null() {
                Endpoint::Chat
            } else {
                Endpoint::Completion
            };
            for value in good.as_array().unwrap() {
                let request = ModelRequest::parse(endpoint, body(json!({field: value})));
                assert_eq!(request.unwrap().body("m")[field], *value, "{field}");
            }
            for value in bad.as_array().unwrap() {
                refused(endpoint, body(json!({field: value})), field);
            }
        }
    }
}

#[test]
fn only_an_echo_may_be_all_of_a_completion() {
    let body = completion(json!({"max_tokens": 0, "echo": true, "logprobs": 1}));
    let request = ModelRequest::parse(Endpoint::Completion, body).unwrap();
    assert_eq!(
        (request.field("max_tokens"), request.field("echo")),
        (Some(&json!(0)), Some(&json!(true)))
    );
    refused(
        Endpoint::Chat,
        chat(json!({"max_tokens": 0, "echo": true})),
        "max_tokens",
    );
    let error = ModelRequest::parse(Endpoint::Completion, completion(json!({"max_tokens": 0})));
    assert!(error.unwrap_err().to_string().contains("echo"));
}

#[test]
fn fields_of_one_endpoint_keep_their_bounds() {
    for (extra, param) in [
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"top_logprobs": 5}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        (json!({"stream": true, "stream_options": 1}), "stream_options"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"chat_template": "{{ x }}"}), "chat_template"),
        (
            json!({"chat_template_kwargs": {"chat_template": "x"}}),
            "chat_template_kwargs",
        ),
        (json!({"continue_final_message": true}), "continue_final_message"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"guided_regex": "a+"}), "guided_regex"),
    ] {
        refused(Endpoint::Chat, chat(extra), param);
    }
    for (extra, param) in [
        (json!({"logprobs": true}), "logprobs"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"echo": 1}), "echo"),
        (json!({"best_of": 1, "n": 2}), "best_of"),
        (json!({"best_of": 3, "n": 2}), "best_of"),
        (json!({"suffix": 1}), "suffix"),
    ] {
        refused(Endpoint::Completion, completion(extra), param);
    }
    let good = json!({"logprobs": true, "top_logprobs": 20, "stream": true, "stream_options": {"include_usage": true},
                      "modalities": ["text"], "continue_final_message": true, "add_generation_prompt": false});
    assert!(ModelRequest::parse(Endpoint::Chat, chat(good)).unwrap().stream);
}

#[test]
fn all_forms_of_a_prompt_are_read() {
    for prompt in [
        json!("x"),
        json!(""),
        json!(["a", "b"]),
        json!([1, 2]),
        json!([[1], [2, 3]]),
    ] {
        assert!(ModelRequest::parse(Endpoint::Completion, json!({"model": "m", "prompt": prompt})).is_ok());
    }
    for prompt in [
        json!(null),
        json!(3),
        json!([]),
        json!([[]]),
        json!([-1]),
        json!([1.5]),
        json!({}),
        json!(vec!["x"; 65]),
    ] {
        refused(
            Endpoint::Completion,
            json!({"model": "m", "prompt": prompt}),
            "prompt",
        );
    }
}

#[test]
fn a_developer_speaks_as_the_system() {
    let body =
        messages(json!([{"role": "developer", "content": "be kind"}, {"role": "user", "content": "x"}]));
    let request = ModelRequest::parse(Endpoint::Chat, body).unwrap();
    let role = &request.body("m")["messages"][0]["role"];
    assert_eq!(role, "system");
}

#[test]
fn messages_are_checked_one_by_one() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    for good in [
        json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "x", "name": "ada"}]),
        json!([{"role": "developer", "content": [{"type": "text", "text": "x"}]}]),
        json!([{"role": "assistant", "content": null, "tool_calls": [call]}]),
        json!([{"role": "assistant", "content": null, "tool_calls": [call]},
               {"role": "tool", "content": "4", "tool_call_id": "c1"}]),
        json!([{"role": "assistant", "refusal": "no"}]),
    ] {
        assert!(
            ModelRequest::parse(Endpoint::Chat, messages(good.clone())).is_ok(),
            "{good}"
        );
    }
    for (bad, param) in [
        (json!(null), "messages"),
        (json!("x"), "messages"),
        (json!([]), "messages"),
        (json!(["x"]), "messages[0]"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "robot", "content": "x"}]), "messages[0].role"),
        (
            json!([{"role": "user", "content": "x"}, {"role": "user"}]),
            "messages[1].content",
        ),
        (
            json!([{"role": "assistant", "content": null}]),
            "messages[0].content",
        ),
        (json!([{"role": "user", "content": 3}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (
            json!([{"role": "user", "content": ["x"]}]),
            "messages[0].content[0]",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[1].type",
        ),
        (
            json!([{"role": "user", "content": "x", "name": 3}]),
            "messages[0].name",
        ),
        (
            json!([{"role": "tool", "content": "x"}]),
            "messages[0].tool_call_id",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "c"}]}]),
            "messages[0].tool_calls[0].function",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]),
            "messages[0].tool_calls[0].function.name",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call, call]}]),
            "messages[0].tool_calls[1].id",
        ),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": []}]),
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "tool", "content": "4", "tool_call_id": "c1"}]),
            "messages[1].tool_call_id",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "4", "tool_call_id": "d"}]),
            "messages[1].tool_call_id",
        ),
    ] {
        refused(Endpoint::Chat, messages(bad), param);
    }
}

#[test]
fn what_is_unknown_of_a_message_is_left_out() {
    let given = json!([{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}], "weight": 1,
                        "tool_calls": []}]);
    let request = ModelRequest::parse(Endpoint::Chat, messages(given)).unwrap();
    let expected = json!([{"role": "user", "content": [{"type": "text", "text": "x"}]}]);
    assert_eq!(request.body("m")["messages"], expected);
}

#[test]
fn tools_and_formats_are_checked() {
    let plain =
        tool(json!({"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}));
    let named = json!({"type": "function", "function": {"name": "f"}});
    let schema = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": true}});
    for good in [
        json!({"tools": [plain], "tool_choice": "required", "parallel_tool_calls": false}),
        json!({"tools": [plain], "tool_choice": named}),
        json!({"tool_choice": "none"}),
        json!({"response_format": {"type": "text"}}),
        json!({"response_format": schema}),
    ] {
        assert!(
            ModelRequest::parse(Endpoint::Chat, chat(good.clone())).is_ok(),
            "{good}"
        );
    }
    for (bad, param) in [
        (json!({"tools": "f"}), "tools"),
        (json!({"tools": vec![plain.clone(); 129]}), "tools"),
        (json!({"tools": [plain, plain]}), "tools[1].function.name"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (
            json!({"tools": [tool(json!({"name": "f", "parameters": {"type": "string"}}))]}),
            "tools[0].function.parameters.type",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (
            json!({"tools": [tool(json!({"name": "a b"}))]}),
            "tools[0].function.name",
        ),
        (
            json!({"tools": [tool(json!({"name": "f", "parameters": []}))]}),
            "tools[0].function.parameters",
        ),
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"parallel_tool_calls": true}), "parallel_tool_calls"),
        (json!({"tools": [plain], "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": [plain], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice.function.name",
        ),
        (json!({"response_format": "json"}), "response_format"),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}),
            "response_format.json_schema.schema",
        ),
    ] {
        refused(Endpoint::Chat, chat(bad), param);
    }
}
