#![allow(clippy::unwrap_used)]
use super::*;

fn tool(function: &Value) -> Value {
    json!({"type": "function", "function": function})
}

fn places<T: std::fmt::Debug>(found: Result<T, Vec<Problem>>) -> Vec<(String, &'static str)> {
    let problems = found.unwrap_err().into_iter();
    problems
        .map(|problem| {
            let path = problem.field.unwrap();
            assert!(
                problem.message.contains(&format!("`{path}`")),
                "{}",
                problem.message
            );
            (path, problem.code)
        })
        .collect()
}

#[test]
fn tools_are_read_with_their_schemas() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]});
    let value = json!([
        tool(&json!({"name": "f", "description": "d", "parameters": schema, "strict": true})),
        tool(&json!({"name": "g"})),
    ]);
    let tools = read_tools(&value).unwrap();
    assert_eq!(
        (tools[0].name.as_str(), &tools[0].parameters),
        ("f", &Some(schema))
    );
    assert_eq!((tools[1].name.as_str(), &tools[1].parameters), ("g", &None));
}

#[test]
fn wrong_tools_are_named() {
    let good = tool(&json!({"name": "f"}));
    let parameters = |schema: Value| json!([tool(&json!({"name": "f", "parameters": schema}))]);
    for (value, path, code) in [
        (json!({}), "tools", "wrong_type"),
        (json!(vec![good.clone(); 129]), "tools", "too_many_tools"),
        (json!([3]), "tools[0]", "wrong_type"),
        (json!([{"type": "retrieval"}]), "tools[0].type", "unknown_type"),
        (
            json!([{"type": "function"}]),
            "tools[0].function",
            "missing_field",
        ),
        (
            json!([tool(&json!({}))]),
            "tools[0].function.name",
            "invalid_name",
        ),
        (
            json!([tool(&json!({"name": "a b"}))]),
            "tools[0].function.name",
            "invalid_name",
        ),
        (
            json!([tool(&json!({"name": "f", "description": 1}))]),
            "tools[0].function.description",
            "wrong_type",
        ),
        (json!([good, good]), "tools[1].function.name", "duplicate_tool"),
        (
            parameters(json!([])),
            "tools[0].function.parameters",
            "invalid_schema",
        ),
        (
            parameters(json!({"type": "array"})),
            "tools[0].function.parameters.type",
            "invalid_schema",
        ),
        (
            parameters(json!({"properties": []})),
            "tools[0].function.parameters.properties",
            "invalid_schema",
        ),
        (
            parameters(json!({"required": "x"})),
            "tools[0].function.parameters.required",
            "invalid_schema",
        ),
    ] {
        assert_eq!(places(read_tools(&value)), [(path.to_owned(), code)], "{value}");
    }
}

#[test]
fn arguments_become_an_object() {
    let read = |arguments: Value| {
        let call =
            json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]);
        read_calls(&call, "calls").map(|calls| serde_json::to_value(&calls[0]).unwrap())
    };
    let wanted =
        json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}});
    assert_eq!(read(json!("{\"b\": 1, \"a\": 2.0}")).unwrap(), wanted);
    assert_eq!(read(json!({"b": 1, "a": 2.0})).unwrap(), wanted);
    assert_eq!(read(json!("")).unwrap()["function"]["arguments"], json!({}));
    for bad in [json!("{"), json!("[1]"), json!(3)] {
        let wanted = [("calls[0].function.arguments".to_owned(), "invalid_arguments")];
        assert_eq!(places(read(bad)), wanted);
    }
}

#[test]
fn wrong_calls_are_named() {
    let good = json!({"id": "c", "function": {"name": "f"}});
    for (value, path, code) in [
        (json!({}), "calls", "wrong_type"),
        (json!([]), "calls", "wrong_type"),
        (json!([1]), "calls[0]", "wrong_type"),
        (json!([{"id": 1}]), "calls[0].id", "wrong_type"),
        (
            json!([{"id": "c", "type": "code"}]),
            "calls[0].type",
            "unknown_type",
        ),
        (json!([{"id": "c"}]), "calls[0].function", "missing_field"),
        (
            json!([{"function": {"name": ""}}]),
            "calls[0].function.name",
            "invalid_name",
        ),
        (json!([good, good]), "calls[1].id", "duplicate_tool_call"),
    ] {
        assert_eq!(
            places(read_calls(&value, "calls")),
            [(path.to_owned(), code)],
            "{value}"
        );
    }
}

fn calling(ids: &[Option<&str>]) -> Message {
    let call = |id: &Option<&str>| ToolCall {
        id: id.map(ToOwned::to_owned),
        name: "f".to_owned(),
        arguments: Map::new(),
    };
    Message {
        tool_calls: ids.iter().map(call).collect(),
        ..Message::new(Role::Assistant, "")
    }
}

fn result(id: Option<&str>) -> Message {
    Message {
        tool_call_id: id.map(ToOwned::to_owned),
        ..Message::new(Role::Tool, "1")
    }
}

#[test]
fn results_belong_to_calls() {
    let user = || Message::new(Role::User, "u");
    let two = || calling(&[Some("a"), Some("b")]);
    let codes = |messages: &[Message], complete| -> Vec<(String, &'static str)> {
        let problems = check_results(messages, complete);
        problems
            .into_iter()
            .map(|problem| (problem.field.unwrap(), problem.code))
            .collect()
    };
    for good in [
        vec![user(), two(), result(Some("b")), result(Some("a")), user()],
        vec![
            user(),
            calling(&[None, None]),
            result(None),
            result(Some("x")),
            user(),
        ],
        vec![user(), two()],
    ] {
        assert_eq!(codes(&good, true), [], "{good:?}");
    }
    let orphan = "tool_without_call";
    for (messages, path, code) in [
        (
            vec![user(), result(Some("a"))],
            "messages[1].tool_call_id",
            orphan,
        ),
        (vec![user(), result(None)], "messages[1].role", orphan),
        (vec![two(), result(Some("c"))], "messages[1].tool_call_id", orphan),
        (
            vec![two(), result(Some("a")), result(Some("a"))],
            "messages[2].tool_call_id",
            orphan,
        ),
        (
            vec![two(), result(Some("a")), user()],
            "messages[2].role",
            "unanswered_tool_call",
        ),
    ] {
        assert_eq!(codes(&messages, true), [(path.to_owned(), code)], "{messages:?}");
    }
    assert_eq!(codes(&[two(), result(Some("a")), user()], false), []);
}
