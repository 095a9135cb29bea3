//! Tools of a chat request, and whether the model must call one.

use serde_json::Value;
use tunesmith_dataset::{
    chat::{Tool, tools::read_tools},
    fields::Problem,
    template::CallSyntax,
};

use super::{calls::CallReading, error::ApiError, fields::Fields, grammar::RequestedGrammar};
use crate::{engine::Engine, tool_calls::forced_grammar};

/// Whether and what the model calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToolChoice {
    /// As it likes.
    Auto,
    /// At least one function.
    Required,
    /// This function, once.
    Named(String),
}

/// Tools that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tools {
    /// As the caller gave them, for the chat template.
    pub(super) definitions: Value,
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
}

/// The first of the problems that a reader found.
pub(super) fn first_problem(problems: Vec<Problem>) -> ApiError {
    match problems.into_iter().next() {
        Some(problem) => ApiError::invalid(problem.field.as_deref().unwrap_or("messages"), problem.message),
        None => ApiError::internal(),
    }
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`. None where there are no tools or none may be called; then the
/// prompt does not have them either.
///
/// # Errors
/// The first that is wrong, by path.
pub(super) fn read(fields: &Fields) -> Result<Option<Tools>, ApiError> {
    let tools = match fields.get("tools") {
        Some(value) => read_tools(value).map_err(first_problem)?,
        None => Vec::new(),
    };
    let parallel = fields.flag("parallel_tool_calls", true)?;
    let choice = fields.get("tool_choice");
    if choice.is_some_and(|choice| choice == "none") {
        return Ok(None);
    }
    let Some(definitions) = fields.get("tools").filter(|_| !tools.is_empty()) else {
        let message = "`tool_choice` is only allowed with `tools`.";
        return match choice {
            Some(_) => Err(ApiError::invalid("tool_choice", message)),
            None => Ok(None),
        };
    };
    Ok(Some(Tools {
        definitions: definitions.clone(),
        choice: choice.map_or(Ok(ToolChoice::Auto), |choice| read_choice(choice, &tools))?,
        tools,
        parallel,
    }))
}

fn read_choice(value: &Value, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    match (value.as_str(), value["type"].as_str()) {
        (Some("auto"), _) => return Ok(ToolChoice::Auto),
        (Some("required"), _) => return Ok(ToolChoice::Required),
        (None, Some("function")) => {}
        _ => {
            let message = "`tool_choice` must be `none`, `auto`, `required`, or an object of the type `function` \
                           that names one.";
            return Err(ApiError::invalid("tool_choice", message));
        }
    }
    let path = "tool_choice.function.name";
    let name = value["function"]["name"].as_str();
    let tool = tools.iter().find(|tool| Some(tool.name.as_str()) == name);
    let message = || format!("`{path}` names no function of `tools`.");
    tool.map(|tool| ToolChoice::Named(tool.name.clone()))
        .ok_or_else(|| ApiError::invalid(path, message()))
}

impl Tools {
    /// How calls are found in the answers of the engine's model.
    ///
    /// # Errors
    /// Its chat template knows no tools, or writes calls in a form that is not known here.
    pub(super) fn reading(&self, engine: &Engine) -> Result<CallReading, ApiError> {
        let support = engine.template().map(|template| template.tool_support());
        if support.is_some_and(|support| !support.definitions) {
            let message = "The chat template of this model does not know tools, so it would answer without them. Leave \
                           `tools` out, or choose another model.";
            return Err(ApiError::invalid("tools", message));
        }
        // A model without any template is refused when its prompt is rendered.
        let syntax = support.map_or(Some(CallSyntax::Hermes), |support| support.syntax);
        let syntax = syntax.ok_or_else(|| {
            let message = "The chat template of this model writes calls in a form that this engine cannot read; it \
                           reads those of Hermes and Qwen, Llama 3, and Mistral. Leave `tools` out.";
            ApiError::invalid("tools", message)
        })?;
        let named = matches!(self.choice, ToolChoice::Named(_));
        Ok(CallReading {
            syntax,
            names: self.tools.iter().map(|tool| tool.name.clone()).collect(),
            named,
            parallel: self.parallel && !named,
        })
    }

    /// The grammar of an answer that must be a call.
    pub(super) fn forced(&self, engine: &Engine, reading: &CallReading) -> Option<RequestedGrammar> {
        let tools: Vec<&Tool> = match &self.choice {
            ToolChoice::Auto => return None,
            ToolChoice::Required => self.tools.iter().collect(),
            ToolChoice::Named(name) => self.tools.iter().filter(|tool| tool.name == *name).collect(),
        };
        let token = |text: &str| engine.tokenizer().token_id(text);
        Some(RequestedGrammar {
            field: "tools",
            grammar: forced_grammar(reading.syntax, &tools, reading.parallel, token),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn tools(body: &Value) -> Result<Option<Tools>, ApiError> {
        read(&Fields::parse(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn choices_are_read() {
        let f = json!([{"type": "function", "function": {"name": "f"}}]);
        let named = json!({"type": "function", "function": {"name": "f"}});
        for (body, wanted) in [
            (json!({}), None),
            (
                json!({"tools": [], "tool_choice": "none", "parallel_tool_calls": true}),
                None,
            ),
            (json!({"tools": f, "tool_choice": "none"}), None),
            (json!({"tools": f}), Some(ToolChoice::Auto)),
            (
                json!({"tools": f, "tool_choice": "required"}),
                Some(ToolChoice::Required),
            ),
            (
                json!({"tools": f, "tool_choice": named}),
                Some(ToolChoice::Named("f".to_owned())),
            ),
        ] {
            assert_eq!(tools(&body).unwrap().map(|tools| tools.choice), wanted, "{body}");
        }
    }

    #[test]
    fn wrong_tools_are_refused_by_path() {
        let f = json!([{"type": "function", "function": {"name": "f"}}]);
        for (body, path) in [
            (json!({"tools": 3}), "tools"),
            (json!({"tools": [f[0], f[0]]}), "tools[1].function.name"),
            (json!({"tool_choice": "auto"}), "tool_choice"),
            (json!({"tools": f, "tool_choice": "maybe"}), "tool_choice"),
            (
                json!({"tools": f, "tool_choice": {"type": "allowed_tools"}}),
                "tool_choice",
            ),
            (
                json!({"tools": f, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
                "tool_choice.function.name",
            ),
            (
                json!({"tools": f, "parallel_tool_calls": 1}),
                "parallel_tool_calls",
            ),
        ] {
            let error = tools(&body).unwrap_err();
            assert_eq!(error.body().error.param.as_deref(), Some(path), "{body}");
        }
    }
}
