//! `chat`: one answer, or a conversation.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    args::client::ChatArgs,
    client::{ApiClient, events},
    printer::Printer,
    terminal::prompt,
};

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

impl Message {
    fn new(role: &str, content: String) -> Self {
        Self {
            role: role.to_owned(),
            content,
        }
    }
}

pub(super) async fn run(client: &ApiClient, args: ChatArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let mut messages: Vec<Message> = args
        .system
        .iter()
        .map(|system| Message::new("system", system.clone()))
        .collect();
    if let Some(message) = &args.message {
        messages.push(Message::new("user", message.clone()));
        if printer.is_json() {
            let answer: Value = client
                .post("/v1/chat/completions", &body(&args, &messages, false))
                .await?;
            printer.json(&answer);
        } else {
            stream(client, &args, &messages, printer).await?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !std::io::stdin().is_terminal() {
        bail!("say what to ask with -m; a conversation needs a terminal");
    }
    converse(client, &args, messages, printer).await
}

async fn converse(
    client: &ApiClient,
    args: &ChatArgs,
    mut messages: Vec<Message>,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    printer.words(format_args!(
        "talking to {}; an empty line or Ctrl-D ends it",
        args.model
    ));
    loop {
        let question = tokio::task::spawn_blocking(|| prompt::line("you"))
            .await
            .context("cannot read the terminal")??;
        if question.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        messages.push(Message::new("user", question));
        match stream(client, args, &messages, printer).await {
            Ok(answer) => messages.push(Message::new("assistant", answer)),
            Err(error) => {
                printer.words(format_args!("error: {error:#}"));
                messages.pop();
            }
        }
    }
}

fn body(args: &ChatArgs, messages: &[Message], stream: bool) -> Value {
    let mut body = json!({
        "model": args.model,
        "messages": messages,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "stream": stream,
    });
    if let Some(seed) = args.seed {
        body["seed"] = json!(seed);
    }
    body
}

/// Prints an answer as it comes, and returns it.
async fn stream(
    client: &ApiClient,
    args: &ChatArgs,
    messages: &[Message],
    printer: Printer,
) -> anyhow::Result<String> {
    let request = client
        .request(reqwest::Method::POST, "/v1/chat/completions")
        .await?;
    let response = client.send(request.json(&body(args, messages, true))).await?;
    let mut events = std::pin::pin!(events(response));
    let mut answer = String::new();
    while let Some(event) = events.next().await {
        let event = event?;
        if event.data == "[DONE]" {
            break;
        }
        let chunk: Value =
            serde_json::from_str(&event.data).context("the server sent something unexpected")?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            bail!("{message}");
        }
        let piece = chunk["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        printer.write(piece);
        answer.push_str(piece);
    }
    printer.line("");
    Ok(answer)
}
