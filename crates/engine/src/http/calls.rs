//! Calls in answers: from the text of a choice to `tool_calls` of its message, whole or as deltas.

use serde_json::{Value, json};
use tunesmith_dataset::template::CallSyntax;
use uuid::Uuid;

use crate::{
    generation::FinishReason,
    tool_calls::{CallParser, Part},
};

/// Mistral's chat templates take ids of this length only.
const MISTRAL_ID_LENGTH: usize = 9;

/// How calls are found in the answers of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallReading {
    /// The form in which the model writes them.
    pub(super) syntax: CallSyntax,
    /// The functions that it may call.
    pub(super) names: Vec<String>,
    /// The caller named the function.
    pub(super) named: bool,
    /// There may be several.
    pub(super) parallel: bool,
}

impl CallReading {
    /// Marks of calls may be special tokens, which must not be left out of the text.
    #[must_use]
    pub(super) fn reads_special_tokens(&self) -> bool {
        self.syntax != CallSyntax::Llama
    }
}

/// The message of one choice on its way.
#[derive(Debug)]
pub(super) struct CallDeltas {
    parser: CallParser,
    reading: CallReading,
}

impl CallDeltas {
    /// For an answer that is read in that way.
    #[must_use]
    pub(super) fn new(reading: &CallReading) -> Self {
        let most = if reading.parallel { usize::MAX } else { 1 };
        Self {
            parser: CallParser::new(reading.syntax, reading.names.clone(), most),
            reading: reading.clone(),
        }
    }

    /// The deltas that new text makes certain.
    pub(super) fn push(&mut self, text: &str) -> Vec<Value> {
        let parts = self.parser.push(text);
        parts.into_iter().map(|part| self.delta(part)).collect()
    }

    /// The deltas of what was held back.
    pub(super) fn finish(&mut self) -> Vec<Value> {
        let parts = self.parser.finish();
        parts.into_iter().map(|part| self.delta(part)).collect()
    }

    /// Why the choice ended. As OpenAI has it, a function that the caller named is no reason of its own.
    #[must_use]
    pub(super) fn reason(&self, reason: FinishReason) -> FinishReason {
        if reason == FinishReason::Stop && self.parser.has_calls() && !self.reading.named {
            FinishReason::ToolCalls
        } else {
            reason
        }
    }

    fn delta(&self, part: Part) -> Value {
        match part {
            Part::Text(text) => json!({"content": text}),
            Part::Call { index, name } => {
                let id = self.fresh_id();
                let function = json!({"name": name, "arguments": ""});
                json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            }
            Part::Arguments { index, json } => {
                json!({"tool_calls": [{"index": index, "function": {"arguments": json}}]})
            }
        }
    }

    fn fresh_id(&self) -> String {
        let id = Uuid::now_v7().simple().to_string();
        if self.reading.syntax == CallSyntax::Mistral {
            id[id.len() - MISTRAL_ID_LENGTH..].to_owned()
        } else {
            format!("call_{id}")
        }
    }
}

/// Text and calls of a whole answer.
pub(super) fn read_whole(deltas: &mut CallDeltas, text: &str) -> (String, Vec<Value>) {
    let mut content = String::new();
    let mut calls: Vec<Value> = Vec::new();
    let mut parts = deltas.parser.push(text);
    parts.extend(deltas.parser.finish());
    for part in parts {
        match part {
            Part::Text(text) => content.push_str(&text),
            Part::Call { name, .. } => {
                let function = json!({"name": name, "arguments": ""});
                calls.push(json!({"id": deltas.fresh_id(), "type": "function", "function": function}));
            }
            Part::Arguments { index, json } => {
                let so_far = calls[index]["function"]["arguments"].as_str().unwrap_or_default();
                calls[index]["function"]["arguments"] = json!([so_far, &json].concat());
            }
        }
    }
    (content, calls)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANSWER: &str = "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";

    fn deltas(syntax: CallSyntax, named: bool) -> CallDeltas {
        CallDeltas::new(&CallReading {
            syntax,
            names: vec!["f".to_owned()],
            named,
            parallel: true,
        })
    }

    #[test]
    fn a_whole_answer_has_text_and_calls() {
        let mut deltas = deltas(CallSyntax::Hermes, false);
        let (text, calls) = read_whole(&mut deltas, ANSWER);
        assert_eq!((text.as_str(), calls.len()), ("Well.", 1));
        assert_eq!(
            calls[0]["function"],
            json!({"name": "f", "arguments": "{\"a\": 1}"})
        );
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        assert_eq!(deltas.reason(FinishReason::Stop), FinishReason::ToolCalls);
        assert_eq!(deltas.reason(FinishReason::Length), FinishReason::Length);
    }

    #[test]
    fn deltas_give_the_name_first_and_then_the_arguments() {
        let mut deltas = deltas(CallSyntax::Hermes, false);
        let mut found = deltas.push(&ANSWER[..50]);
        found.extend(deltas.push(&ANSWER[50..]));
        found.extend(deltas.finish());
        assert_eq!(found[0], json!({"content": "Well."}));
        let call = &found[1]["tool_calls"][0];
        assert_eq!((&call["index"], &call["type"]), (&json!(0), &json!("function")));
        assert_eq!(call["function"], json!({"name": "f", "arguments": ""}));
        let pieces = found[2..].iter().map(|delta| {
            let call = delta["tool_calls"][0].as_object().unwrap();
            assert_eq!(call.keys().collect::<Vec<_>>(), ["index", "function"]);
            call["function"]["arguments"].as_str().unwrap()
        });
        assert_eq!(pieces.collect::<String>(), "{\"a\": 1}");
    }

    #[test]
    fn a_named_function_ends_with_stop_and_mistrals_ids_are_short() {
        let mut deltas = deltas(CallSyntax::Mistral, true);
        let (_, calls) = read_whole(&mut deltas, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]");
        let id = calls[0]["id"].as_str().unwrap();
        assert!(
            id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{id}"
        );
        assert_eq!(deltas.reason(FinishReason::Stop), FinishReason::Stop);
    }
}
