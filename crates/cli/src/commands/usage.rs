//! `usage` and `feedback`.

use std::process::ExitCode;

use tunesmith_types::api::{
    feedback::FeedbackRequest,
    usage::{UsageGroup, UsageQuery},
};

use crate::{
    args::rollouts::{FeedbackArgs, UsageArgs},
    client::ApiClient,
    printer::{Printer, table},
};

pub(super) async fn usage(client: &ApiClient, args: UsageArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let query = UsageQuery {
        from: Some(chrono::Utc::now().timestamp() - args.days.clamp(1, 400) * 24 * 3600),
        to: None,
        group_by: Some(args.group_by),
    };
    let report = client.usage(&query).await?;
    printer.result(&report, || {
        let headings = [
            "day",
            "model",
            "version",
            "requests",
            "errors",
            "prompt",
            "cached",
            "completion",
        ];
        table(&headings, report.data.iter().map(row).collect())
    });
    Ok(ExitCode::SUCCESS)
}

fn row(group: &UsageGroup) -> Vec<String> {
    let day = group.day.and_then(|day| chrono::DateTime::from_timestamp(day, 0));
    let all = || "all".to_owned();
    vec![
        day.map_or_else(all, |day| day.format("%Y-%m-%d").to_string()),
        group.model.clone().unwrap_or_else(all),
        group.version.clone().unwrap_or_else(all),
        group.requests.to_string(),
        group.errors.to_string(),
        group.prompt_tokens.to_string(),
        group.cached_tokens.to_string(),
        group.completion_tokens.to_string(),
    ]
}

pub(super) async fn feedback(
    client: &ApiClient,
    args: FeedbackArgs,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    let request = FeedbackRequest {
        id: args.id,
        score: args.score,
        comment: args.comment,
    };
    let scored = client.score(&request).await?;
    printer.result(&scored, || {
        format!("{} for an answer of {}", scored.score, scored.version)
    });
    Ok(ExitCode::SUCCESS)
}
