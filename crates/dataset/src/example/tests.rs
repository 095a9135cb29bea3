#![allow(clippy::unwrap_used)]
use super::*;
use crate::chat::Role;

fn found(line: &str) -> Vec<(Option<String>, &'static str)> {
    match Example::parse(line.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|p| (p.field, p.code)).collect(),
    }
}

#[test]
fn good_lines() {
    let line = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},
        {"role":"assistant","content":"a","weight":0},{"role":"user","content":"v","name":"Eve"},
        {"role":"assistant","content":"b"}]}"#;
    let Example::Chat { messages, tools } = Example::parse(line.as_bytes()).unwrap() else {
        panic!("not a chat")
    };
    assert_eq!(messages.len(), 5);
    assert!(!messages[2].is_trained() && messages[4].is_trained() && tools.is_none());
    assert_eq!(
        (messages[3].role, messages[3].name.as_deref()),
        (Role::User, Some("Eve"))
    );
    assert!(Example::parse(br#"{"prompt":"p","completion":" c"}"#).is_ok());
    assert!(Example::parse(br#" {"text":"t"} "#).is_ok());
    let tools = r#"{"tools":[{"type":"function","function":{"name":"f"}}],"parallel_tool_calls":false,
        "messages":[{"role":"user","content":"u"},
        {"role":"assistant","content":null,"tool_calls":[
            {"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","content":"42","tool_call_id":"1"},{"role":"assistant","content":"42"}]}"#;
    assert_eq!(found(tools), []);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn table_of_bad_lines() {
    let user = r#"{"role":"user","content":"u"}"#;
    let assistant = r#"{"role":"assistant","content":"a"}"#;
    let chat = |messages: &str| format!(r#"{{"messages":[{messages}]}}"#);
    let table: Vec<(String, Option<&str>, &str)> = vec![
        ("[1]".into(), None, "not_an_object"),
        ("\"text\"".into(), None, "not_an_object"),
        ("{".into(), None, "invalid_json"),
        (r#"{"text":"a"} x"#.into(), None, "invalid_json"),
        (r#"{"text":"a",}"#.into(), None, "invalid_json"),
        (
            format!(r#"{{"tools":{}1{}}}"#, "[".repeat(200), "]".repeat(200)),
            None,
            "invalid_json",
        ),
        ("{}".into(), None, "no_format"),
        (r#"{"tools":[]}"#.into(), None, "no_format"),
        (r#"{"text":"a","prompt":"b"}"#.into(), None, "two_formats"),
        (r#"{"text":"a","label":1}"#.into(), Some("label"), "unknown_field"),
        (
            r#"{"text":"a","text":"b"}"#.into(),
            Some("text"),
            "duplicate_field",
        ),
        (r#"{"text":5}"#.into(), Some("text"), "wrong_type"),
        (r#"{"text":" "}"#.into(), Some("text"), "empty_content"),
        (r#"{"prompt":"a"}"#.into(), Some("completion"), "missing_field"),
        (r#"{"completion":"a"}"#.into(), Some("prompt"), "missing_field"),
        (
            r#"{"prompt":"a","completion":""}"#.into(),
            Some("completion"),
            "empty_content",
        ),
        (
            r#"{"text":"a","tools":[]}"#.into(),
            Some("tools"),
            "misplaced_field",
        ),
        (r#"{"messages":{}}"#.into(), Some("messages"), "wrong_type"),
        (chat(""), Some("messages"), "empty_messages"),
        (chat("3"), Some("messages[0]"), "wrong_type"),
        (
            chat(r#"{"content":"u"}"#),
            Some("messages[0].role"),
            "missing_field",
        ),
        (
            chat(r#"{"role":"user"}"#),
            Some("messages[0].content"),
            "missing_field",
        ),
        (
            chat(r#"{"role":"bot","content":"u"}"#),
            Some("messages[0].role"),
            "unknown_role",
        ),
        (
            chat(r#"{"role":7,"content":"u"}"#),
            Some("messages[0].role"),
            "wrong_type",
        ),
        (
            chat(r#"{"role":"user","content":[{"type":"text"}]}"#),
            Some("messages[0].content"),
            "content_parts",
        ),
        (
            chat(r#"{"role":"user","content":"u","mood":1}"#),
            Some("messages[0].mood"),
            "unknown_field",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"assistant","content":"a","weight":2}}"#
            )),
            Some("messages[1].weight"),
            "invalid_weight",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"assistant","content":"a","weight":-0.1}}"#
            )),
            Some("messages[1].weight"),
            "invalid_weight",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"assistant","content":"a","weight":"1"}}"#
            )),
            Some("messages[1].weight"),
            "invalid_weight",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"assistant","content":"a","weight":true}}"#
            )),
            Some("messages[1].weight"),
            "invalid_weight",
        ),
        (
            chat(r#"{"role":"user","content":"u","weight":0.5}"#),
            Some("messages[0].weight"),
            "misplaced_field",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"assistant","content":"a","weight":0}}"#
            )),
            Some("messages"),
            "nothing_supervised",
        ),
        (
            chat(r#"{"role":"user","content":"u","weight":1}"#),
            Some("messages[0].weight"),
            "misplaced_field",
        ),
        (chat(user), Some("messages"), "no_assistant_message"),
        (chat(assistant), Some("messages[0].role"), "first_not_user"),
        (
            chat(&format!("{user},{user},{assistant}")),
            Some("messages[1].role"),
            "roles_do_not_alternate",
        ),
        (
            chat(&format!(
                r#"{user},{{"role":"system","content":"s"}},{assistant}"#
            )),
            Some("messages[1].role"),
            "system_not_first",
        ),
        (
            chat(&format!("{user},{assistant},{user}")),
            Some("messages[2].role"),
            "last_not_assistant",
        ),
    ];
    for (line, field, code) in table {
        let found = found(&line);
        assert!(
            found.contains(&(field.map(ToOwned::to_owned), code)),
            "{line}: wanted {field:?} {code}, found {found:?}"
        );
    }
    assert_eq!(
        Example::parse(b"{\"text\":\"\xff\"}").unwrap_err()[0].code,
        "invalid_utf8"
    );
}

#[test]
fn tools_calls_and_results_are_judged() {
    let line = |tools: &str, call: &str, id: &str| {
        format!(
            r#"{{"tools":{tools},"messages":[{{"role":"user","content":"u"}},
            {{"role":"assistant","tool_calls":[{call}]}},
            {{"role":"tool","content":"1","tool_call_id":"{id}"}},{{"role":"assistant","content":"a"}}]}}"#
        )
    };
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
    let call = r#"{"id":"c","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}"#;
    assert_eq!(found(&line(tools, call, "c")), []);
    assert_eq!(found(&line("null", call, "c")), []);
    for (line, field, code) in [
        (line("{}", call, "c"), "tools", "wrong_type"),
        (
            line(
                r#"[{"type":"function","function":{"name":"f","parameters":3}}]"#,
                call,
                "c",
            ),
            "tools[0].function.parameters",
            "invalid_schema",
        ),
        (
            line(tools, &call.replace("\"f\"", "\"g\""), "c"),
            "messages[1].tool_calls[0].function.name",
            "unknown_tool",
        ),
        (
            line(tools, &call.replace("1}", "1"), "c"),
            "messages[1].tool_calls[0].function.arguments",
            "invalid_arguments",
        ),
        (
            line(tools, call, "d"),
            "messages[2].tool_call_id",
            "tool_without_call",
        ),
    ] {
        assert!(
            found(&line).contains(&(Some(field.to_owned()), code)),
            "{line}: {:?}",
            found(&line)
        );
    }
}

#[test]
fn all_problems_of_a_line() {
    let line = r#"{"messages":[{"role":"bot","content":""},{"content":"x","extra":1}],"id":3}"#;
    let codes: Vec<_> = found(line).into_iter().map(|(_, code)| code).collect();
    assert_eq!(
        codes,
        [
            "unknown_role",
            "empty_content",
            "unknown_field",
            "missing_field",
            "unknown_field"
        ]
    );
}

#[test]
fn weights_are_numbers_from_zero_to_one() {
    let weight = |text: &str| {
        let line = format!(
            r#"{{"messages":[{{"role":"user","content":"u"}},{{"role":"assistant","content":"a","weight":{text}}}]}}"#
        );
        Example::parse(line.as_bytes())
    };
    for (text, wanted) in [("1", 1.0), ("0.5", 0.5), ("1e-3", 0.001), ("1.0", 1.0)] {
        let Ok(Example::Chat { messages, .. }) = weight(text) else {
            panic!("{text} is refused")
        };
        assert_eq!(messages[1].weight, wanted, "{text}");
    }
    let problems = weight("1.5").unwrap_err();
    assert_eq!(
        problems[0].message,
        "`messages[1].weight` must be a number from 0 (not trained on) to 1; 1.5 was given."
    );
}
