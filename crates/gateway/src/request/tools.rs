//! Tools that a model may call, and the form that an answer must have.

use tunesmith_dataset::{
    chat::{
        Tool,
        tools::{LONGEST_NAME, read_tools},
    },
    fields::Problem,
};

use super::fields::{Fields, invalid};
use crate::GatewayError;

/// The first of the problems that a reader found.
pub(super) fn first_problem(problems: Vec<Problem>) -> GatewayError {
    let problem = problems.into_iter().next();
    let (path, message) = problem.map_or_else(Default::default, |problem| (problem.field, problem.message));
    GatewayError::Invalid { param: path, message }
}

/// Checks `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn check(fields: &Fields<'_>) -> Result<(), GatewayError> {
    let tools = match fields.get("tools") {
        Some(value) => read_tools(value).map_err(first_problem)?,
        None => Vec::new(),
    };
    if tools.is_empty() {
        for field in ["tool_choice", "parallel_tool_calls"] {
            let harmless = fields.get(field).is_none_or(|value| value == "none");
            if !harmless {
                return Err(invalid(field, format!("`{field}` is only allowed with `tools`.")));
            }
        }
    }
    fields.flag("parallel_tool_calls")?;
    check_choice(fields, &tools)
}

fn check_choice(fields: &Fields<'_>, tools: &[Tool]) -> Result<(), GatewayError> {
    let Some(choice) = fields.get("tool_choice") else {
        return Ok(());
    };
    if let Some(word) = choice.as_str() {
        if ["none", "auto", "required"].contains(&word) {
            return Ok(());
        }
        let message = "`tool_choice` must be `none`, `auto`, `required`, or an object that names a function.";
        return Err(invalid("tool_choice", message));
    }
    let choice = Fields::inside(choice, "tool_choice")?;
    require_function_type(&choice)?;
    let function = Fields::inside(choice.required("function")?, "tool_choice.function")?;
    let chosen = function.required_text("name")?;
    if tools.iter().any(|tool| tool.name == chosen) {
        return Ok(());
    }
    let path = function.path("name");
    Err(invalid(&path, format!("`{path}` names no function of `tools`.")))
}

fn require_function_type(tool: &Fields<'_>) -> Result<(), GatewayError> {
    if tool.required_text("type")? == "function" {
        return Ok(());
    }
    let path = tool.path("type");
    Err(invalid(&path, format!("`{path}` must be `function`.")))
}

fn name<'a>(fields: &Fields<'a>) -> Result<&'a str, GatewayError> {
    let name = fields.required_text("name")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.len() <= LONGEST_NAME && name.bytes().all(plain) {
        return Ok(name);
    }
    let path = fields.path("name");
    let message = format!("`{path}` must be 1 to {LONGEST_NAME} letters, digits, `_` or `-`.");
    Err(invalid(&path, message))
}

/// Checks `response_format`.
pub(super) fn check_response_format(fields: &Fields<'_>) -> Result<(), GatewayError> {
    let Some(format) = fields.get("response_format") else {
        return Ok(());
    };
    let format = Fields::inside(format, "response_format")?;
    match format.required_text("type")? {
        "text" | "json_object" => Ok(()),
        "json_schema" => {
            let path = format.path("json_schema");
            let schema = Fields::inside(format.required("json_schema")?, &path)?;
            name(&schema)?;
            schema.text("description")?;
            schema.flag("strict")?;
            schema.required("schema")?;
            schema.object("schema").map(drop)
        }
        _ => {
            let path = format.path("type");
            let message = format!("`{path}` must be `text`, `json_object` or `json_schema`.");
            Err(invalid(&path, message))
        }
    }
}
