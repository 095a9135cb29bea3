//! Chat templates in the dialects of well-known models: text, tokens and masks as transformers gives them.
//! `scripts/parity/make_templates.py` wrote the golden files.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tunesmith_dataset::chat::{Message, Role, tools::read_calls};
use tunesmith_dataset::template::{CallSyntax, TemplateError, ToolSupport};
use tunesmith_dataset::{Encoder, Example, encode::EncodeError};

struct Case {
    title: String,
    messages: Vec<Message>,
    tools: Option<Value>,
    json: Value,
}

fn message(json: &Value) -> Message {
    let text = |field: &str| json[field].as_str().map(ToOwned::to_owned);
    Message {
        tool_calls: json
            .get("tool_calls")
            .map(|calls| read_calls(calls, "tool_calls").unwrap())
            .unwrap_or_default(),
        tool_call_id: text("tool_call_id"),
        name: text("name"),
        ..Message::new(
            Role::parse(json["role"].as_str().unwrap()).unwrap(),
            text("content").unwrap(),
        )
    }
}

/// The text that a model learns from an example.
fn learnt(encoder: &Encoder, example: &Example) -> String {
    let sequence = encoder.encode(example).unwrap();
    let pairs = sequence.tokens.iter().zip(&sequence.supervised);
    let learnt: Vec<u32> = pairs
        .filter_map(|(token, learnt)| learnt.then_some(*token))
        .collect();
    encoder.tokenizer().decode(&learnt, false).unwrap()
}

/// The encoder and the cases of each dialect.
fn dialects() -> Vec<(PathBuf, Encoder, Vec<Case>)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders
        .into_iter()
        .map(|folder| {
            let encoder = Encoder::load(&folder).unwrap();
            let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
            let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
            let case = |json: Value| Case {
                title: format!(
                    "{}, {}, prompt {}",
                    folder.file_name().unwrap().display(),
                    json["name"],
                    json["add_generation_prompt"]
                ),
                messages: json["messages"].as_array().unwrap().iter().map(message).collect(),
                tools: Some(json["tools"].clone()).filter(|tools| !tools.is_null()),
                json,
            };
            let cases = cases.into_iter().map(case).collect();
            (folder, encoder, cases)
        })
        .collect()
}

#[test]
fn texts_and_refusals_are_those_of_transformers() {
    let (mut rendered, mut refused, mut without_tools) = (0, 0, 0);
    for (_, encoder, cases) in dialects() {
        for case in cases {
            let prompt = case.json["add_generation_prompt"] == true;
            let template = encoder.template().unwrap();
            match template.render(&case.messages, case.tools.as_ref(), prompt) {
                Ok(found) => {
                    assert_eq!(
                        Some(found.text.as_str()),
                        case.json["text"].as_str(),
                        "{}",
                        case.title
                    );
                    rendered += 1;
                }
                Err(TemplateError::Refused(why)) => {
                    assert_eq!(
                        Some(why.as_str()),
                        case.json["refused"].as_str(),
                        "{}",
                        case.title
                    );
                    refused += 1;
                }
                // What transformers renders then has no trace of the tools.
                Err(TemplateError::IgnoresTools | TemplateError::IgnoresCalls) => {
                    let text = case.json["text"].as_str().unwrap_or_default();
                    assert!(!text.contains("\"weather\""), "{}", case.title);
                    without_tools += 1;
                }
                Err(error) => panic!("{}: {error:?}", case.title),
            }
        }
    }
    assert!(
        rendered > 120 && refused > 15 && without_tools > 10,
        "{rendered} rendered, {refused} refused, {without_tools} without tools"
    );
}

#[test]
fn templates_are_asked_what_they_do_with_tools() {
    for (folder, encoder, _) in dialects() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let syntax = match name {
            "qwen2.5" | "qwen3" => Some(CallSyntax::Hermes),
            "llama3" => Some(CallSyntax::Llama),
            "mistral3" => Some(CallSyntax::Mistral),
            _ => None,
        };
        let wanted = ToolSupport {
            definitions: syntax.is_some(),
            calls: syntax.is_some() || name == "chatml-marked",
            syntax,
        };
        assert_eq!(encoder.template().unwrap().tool_support(), wanted, "{name}");
    }
}

/// What is learnt of a call is what the model must write, so that the parser finds it again.
#[test]
fn calls_are_learnt_as_the_model_writes_them() {
    let line = r#"{"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}],"messages":[
        {"role":"user","content":"Weather in Kiel?"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"call_0001","type":"function",
            "function":{"name":"weather","arguments":"{\"place\":\"Kiel\",\"days\":2}"}}]}]}"#;
    let Ok(example) = Example::parse(line.as_bytes()) else {
        panic!("the line is right")
    };
    let arguments = r#"{"place": "Kiel", "days": 2}"#;
    let hermes = format!(
        "<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call><|im_end|>\n"
    );
    let llama = format!("{{\"name\": \"weather\", \"parameters\": {arguments}}}<|eot_id|>");
    let mistral = format!(
        "[TOOL_CALLS] [{{\"name\": \"weather\", \"arguments\": {arguments}, \"id\": \"call_0001\"}}]</s>"
    );
    for (folder, encoder, _) in dialects() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let wanted = match name {
            "qwen2.5" => &hermes,
            "qwen3" => &format!("<think>\n\n</think>\n\n{hermes}"),
            "llama3" => &llama,
            "mistral3" => &mistral,
            _ => {
                assert!(encoder.encode(&example).is_err(), "{name}");
                continue;
            }
        };
        assert_eq!(&learnt(&encoder, &example), wanted, "{name}");
    }
}

#[test]
fn tokens_are_those_of_transformers() {
    for (_, encoder, cases) in dialects() {
        for case in cases.iter().filter(|case| case.json["text"].is_string()) {
            let ids: Vec<u32> = serde_json::from_value(case.json["ids"].clone()).unwrap();
            let text = case.json["text"].as_str().unwrap();
            assert_eq!(
                encoder.tokenizer().encode(text, false).unwrap().ids,
                ids,
                "{}",
                case.title
            );
        }
    }
}

#[test]
fn masks_are_those_of_transformers() {
    let mut compared = 0;
    for (_, encoder, cases) in dialects() {
        for case in cases {
            let Ok(mask) = serde_json::from_value::<Vec<u8>>(case.json["assistant_mask"].clone()) else {
                continue;
            };
            let example = Example::Chat {
                messages: case.messages,
                // Where the template leaves them out, they are refused; transformers gives the mask all the same.
                tools: case
                    .tools
                    .filter(|_| encoder.template().unwrap().tool_support().definitions),
            };
            if case.json["add_generation_prompt"] == true {
                continue;
            }
            let sequence = match encoder.encode(&example) {
                Ok(sequence) => sequence,
                Err(EncodeError::Template(TemplateError::IgnoresCalls)) => continue,
                Err(error) => panic!("{}: {error:?}", case.title),
            };
            let wanted: Vec<bool> = mask.into_iter().map(|learnt| learnt == 1).collect();
            assert_eq!(sequence.supervised, wanted, "{}", case.title);
            compared += 1;
        }
    }
    assert!(compared >= 19, "{compared} compared");
}

/// What is learnt of the conversation that every dialect takes, where the template marks nothing.
#[test]
fn answers_are_learnt_with_their_end_of_turn() {
    let wanted = [
        ("chatml-marked", "Hi there.<|im_end|>"),
        ("gemma2", "Hi there.<end_of_turn>\n"),
        ("gemma3", "Hi there.<end_of_turn>\n"),
        ("llama3", "Hi there.<|eot_id|>"),
        ("mistral", " Hi there.</s>"),
        ("mistral3", " Hi there.</s>"),
        ("phi3", "Hi there.<|end|>\n<|endoftext|>"),
        ("phi4", "Hi there.<|im_end|>"),
        ("qwen2.5", "Hi there.<|im_end|>\n"),
        ("qwen3", "<think>\n\n</think>\n\nHi there.<|im_end|>\n"),
    ];
    let dialects = dialects();
    assert_eq!(dialects.len(), wanted.len());
    for ((folder, encoder, cases), (name, wanted)) in dialects.into_iter().zip(wanted) {
        assert!(folder.ends_with(name));
        let first = cases.into_iter().next().unwrap();
        let example = Example::Chat {
            messages: first.messages,
            tools: None,
        };
        assert_eq!(learnt(&encoder, &example), wanted, "{name}");
    }
}
