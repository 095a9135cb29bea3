//! Which grammar the output must follow: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_…`.

use serde_json::{Value, json};

use super::{error::ApiError, fields::Fields};
use crate::{
    constraint::{Constraint, ConstraintError, Grammar},
    engine::Engine,
};

/// A grammar with the field that it came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RequestedGrammar {
    pub(super) field: &'static str,
    pub(super) grammar: Grammar,
}

/// vLLM's older fields, with the name that `structured_outputs` has for each.
const GUIDED: [(&str, &str); 4] = [
    ("guided_json", "json"),
    ("guided_regex", "regex"),
    ("guided_choice", "choice"),
    ("guided_grammar", "grammar"),
];

/// Reads the grammar, if one is asked for.
///
/// # Errors
/// A field of the wrong kind, or more than one grammar.
pub(super) fn read(fields: &Fields) -> Result<Option<RequestedGrammar>, ApiError> {
    let mut found = Vec::new();
    if let Some(format) = fields.get("response_format") {
        found.extend(response_format(format)?.map(|grammar| ("response_format", grammar)));
    }
    if let Some(value) = fields.get("structured_outputs") {
        let entries = value.as_object().ok_or_else(|| {
            ApiError::invalid("structured_outputs", "`structured_outputs` must be an object.")
        })?;
        for (kind, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
            if kind == "json_object" && value == &Value::Bool(false) {
                continue;
            }
            found.push((
                "structured_outputs",
                structured("structured_outputs", kind, value)?,
            ));
        }
    }
    for (field, kind) in GUIDED {
        if let Some(value) = fields.get(field) {
            found.push((field, structured(field, kind, value)?));
        }
    }
    if let [_, (field, _), ..] = found.as_slice() {
        let message = format!("`{field}` asks for a second grammar; a request can have one.");
        return Err(ApiError::invalid(field, message));
    }
    let found = found.pop();
    Ok(found.map(|(field, grammar)| RequestedGrammar { field, grammar }))
}

fn response_format(format: &Value) -> Result<Option<Grammar>, ApiError> {
    let invalid = |message: &str| ApiError::invalid("response_format", message);
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(any_object())),
        Some("json_schema") => match &format["json_schema"]["schema"] {
            schema @ (Value::Object(_) | Value::Bool(_)) => Ok(Some(Grammar::JsonSchema(schema.clone()))),
            _ => Err(invalid(
                "`response_format` of type `json_schema` needs `json_schema.schema`, an object.",
            )),
        },
        _ => Err(invalid(
            "`response_format` must have the type `text`, `json_object` or `json_schema`.",
        )),
    }
}

fn structured(field: &str, kind: &str, value: &Value) -> Result<Grammar, ApiError> {
    let wrong = |kind: &str| ApiError::invalid(field, format!("`{field}` must be {kind}."));
    let text = || value.as_str().map(ToOwned::to_owned);
    match kind {
        "json" => match value {
            Value::Object(_) => Ok(Grammar::JsonSchema(value.clone())),
            // vLLM takes the schema as a text too.
            Value::String(text) => serde_json::from_str(text)
                .map(Grammar::JsonSchema)
                .map_err(|_| wrong("a JSON schema")),
            _ => Err(wrong("a JSON schema")),
        },
        "json_object" => Ok(any_object()),
        "regex" => text()
            .map(Grammar::Regex)
            .ok_or_else(|| wrong("a regular expression")),
        "grammar" => text()
            .map(Grammar::Lark)
            .ok_or_else(|| wrong("a grammar in Lark's syntax")),
        "choice" => {
            let choices: Option<Vec<&str>> = value
                .as_array()
                .filter(|choices| !choices.is_empty())
                .and_then(|choices| choices.iter().map(Value::as_str).collect());
            let choices = choices.ok_or_else(|| wrong("a list of texts that is not empty"))?;
            let quoted: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
            Ok(Grammar::Lark(format!("start: {}", quoted.join(" | "))))
        }
        kind => Err(ApiError::unsupported(
            field,
            &format!("it knows no grammar of the kind `{kind}`"),
        )),
    }
}

fn any_object() -> Grammar {
    Grammar::JsonSchema(json!({"type": "object"}))
}

/// Compiles the grammar, on a thread that may block.
///
/// # Errors
/// The grammar is not valid, or the model's tokenizer does not allow any.
pub(super) fn compile(engine: &Engine, requested: RequestedGrammar) -> Result<Constraint, ApiError> {
    let RequestedGrammar { field, grammar } = requested;
    let compiler = engine.grammars().map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "no grammars");
        ApiError::unsupported(
            field,
            "this model's tokenizer does not say which bytes its tokens are",
        )
    })?;
    compiler.compile(grammar).map_err(|error| {
        let ConstraintError::Grammar(reason) = &error else {
            return ApiError::internal();
        };
        let reason = reason.lines().next().unwrap_or_default();
        ApiError::invalid(field, format!("`{field}` is not a valid grammar: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn grammar(body: &Value) -> Result<Option<RequestedGrammar>, ApiError> {
        read(&Fields::parse(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn all_forms_are_read() {
        let schema = json!({"type": "integer"});
        let json = Grammar::JsonSchema(schema.clone());
        for (body, expected) in [
            (json!({}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (
                json!({"response_format": {"type": "json_object"}}),
                Some(any_object()),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
                Some(json.clone()),
            ),
            (
                json!({"structured_outputs": {"json": schema, "regex": null}}),
                Some(json.clone()),
            ),
            (json!({"guided_json": schema}), Some(json.clone())),
            (json!({"guided_json": schema.to_string()}), Some(json)),
            (
                json!({"guided_regex": "a+"}),
                Some(Grammar::Regex("a+".to_owned())),
            ),
            (
                json!({"guided_choice": ["a\"b", "c"]}),
                Some(Grammar::Lark(r#"start: "a\"b" | "c""#.to_owned())),
            ),
        ] {
            let found = grammar(&body).unwrap().map(|requested| requested.grammar);
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn wrong_forms_are_refused_by_field() {
        for (body, field) in [
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "response_format",
            ),
            (json!({"structured_outputs": {"poem": 1}}), "structured_outputs"),
            (json!({"guided_regex": 3}), "guided_regex"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex"),
        ] {
            let error = grammar(&body).unwrap_err();
            assert_eq!(error.body().error.param.as_deref(), Some(field), "{body}");
        }
    }
}
