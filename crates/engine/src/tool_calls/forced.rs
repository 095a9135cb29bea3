//! Grammars that leave a model nothing to write but calls: for `tool_choice: "required"` and a named function.

use serde_json::{Value, json};
use tunesmith_dataset::{chat::Tool, template::CallSyntax};

use super::{hermes, llama, mistral};
use crate::constraint::Grammar;

/// The grammar of one call of a function of `tools` in `syntax`, or of `several`. `token`: the id of the token with that
/// text, if the tokenizer has one; marks are tokens of their own where they can be.
#[must_use]
pub fn forced_grammar(
    syntax: CallSyntax,
    tools: &[&Tool],
    several: bool,
    token: impl Fn(&str) -> Option<u32>,
) -> Grammar {
    let mark = |text: &str| token(text).map_or_else(|| json!(text).to_string(), |id| format!("<[{id}]>"));
    let (arguments, mut lark) = match syntax {
        CallSyntax::Hermes => {
            let rule = hermes::rule(&mark(hermes::OPEN), &mark(hermes::CLOSE), several);
            ("arguments", rule)
        }
        CallSyntax::Llama => ("parameters", llama::rule()),
        CallSyntax::Mistral => ("arguments", mistral::rule(&mark(mistral::OPEN), several)),
    };
    let names: Vec<String> = (0..tools.len()).map(|place| format!("call_{place}")).collect();
    lark.push_str(&format!("call: {}\n", names.join(" | ")));
    for (name, tool) in names.iter().zip(tools) {
        let head = json!(format!("{{\"name\": {}, \"{arguments}\": ", json!(tool.name)));
        let schema = schema(tool);
        lark.push_str(&format!(
            "{name}: {head} {name}_arguments \"}}\"\n{name}_arguments: %json {schema}\n"
        ));
    }
    Grammar::Lark(lark)
}

/// The schema of the arguments, written with the spaces that chat templates write.
fn schema(tool: &Tool) -> Value {
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let mut schema = tool.parameters.clone().unwrap_or_else(none);
    let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    schema["x-guidance"] = spaces;
    if schema["type"].is_null() {
        schema["type"] = json!("object");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(syntax: CallSyntax, several: bool, token: Option<u32>) -> String {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            parameters: None,
        };
        match forced_grammar(syntax, &[&tool("f"), &tool("g")], several, |_| token) {
            Grammar::Lark(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn marks_are_tokens_where_there_are_some() {
        let with = lark(CallSyntax::Hermes, true, Some(7));
        assert!(
            with.starts_with("start: marked (\"\\n\" marked)*\nmarked: <[7]> \"\\n\" call"),
            "{with}"
        );
        let without = lark(CallSyntax::Mistral, false, None);
        assert!(
            without.starts_with("start: \"[TOOL_CALLS]\" \" \"? \"[\" call \"]\"\n"),
            "{without}"
        );
    }

    #[test]
    fn each_function_has_its_arguments() {
        let text = lark(CallSyntax::Llama, false, None);
        assert!(text.contains("call: call_0 | call_1\n"), "{text}");
        let head = r#"call_1: "{\"name\": \"g\", \"parameters\": " call_1_arguments "}""#;
        assert!(text.contains(head), "{text}");
        assert!(
            text.contains("call_0_arguments: %json {\"type\":\"object\""),
            "{text}"
        );
    }
}
