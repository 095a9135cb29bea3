//! `deployments split|canary|shadow|rollback|stats`

use tunesmith_types::{
    api::rollouts::{
        Arm, Canary, CanaryRequest, DeploymentStats, Difference, RollbackRequest, RouteRequest, Shadow,
        ShadowRequest, SplitRequest,
    },
    rollouts::CanaryGates,
};

use crate::{
    args::rollouts::{CanaryCommand, RevisionArgs, RouteArg, ShadowCommand, StartCanaryArgs},
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::ago,
};

/// What `deployments split` asks for.
pub(super) fn split_request(routes: Vec<RouteArg>, revision: &RevisionArgs) -> SplitRequest {
    let routes = routes.into_iter().map(|route| RouteRequest {
        adapter: route.adapter,
        version: route.version,
        alias: route.alias,
        weight: route.weight,
    });
    SplitRequest {
        routes: routes.collect(),
        expected_revision: revision.expected_revision,
        reason: revision.reason.clone(),
    }
}

/// What `deployments rollback` asks for.
pub(super) fn rollback_request(to_revision: Option<i32>, revision: &RevisionArgs) -> RollbackRequest {
    RollbackRequest {
        to_revision,
        expected_revision: revision.expected_revision,
        reason: revision.reason.clone(),
    }
}

pub(super) async fn canary(
    client: &ApiClient,
    command: CanaryCommand,
    printer: Printer,
) -> anyhow::Result<()> {
    let canary = match command {
        CanaryCommand::Start(args) => start_canary(client, *args).await?,
        CanaryCommand::Show { deployment } => client.canary(&deployment).await?,
        CanaryCommand::Abort { deployment } => client.abort_canary(&deployment).await?,
    };
    printer.result(&canary, || canary_text(&canary));
    Ok(())
}

async fn start_canary(client: &ApiClient, args: StartCanaryArgs) -> anyhow::Result<Canary> {
    let request = CanaryRequest {
        adapter: args.version.adapter,
        version: args.version.version,
        alias: args.version.alias,
        steps: args.steps,
        step_seconds: args.step_seconds,
        gates: Some(CanaryGates {
            max_error_rate: args.max_error_rate,
            max_ttft_ratio: args.max_ttft_ratio,
            max_ttft_p95_ms: args.max_ttft_p95_ms,
            min_feedback_difference: args.min_feedback_difference,
            min_feedback: None,
            min_requests: args.min_requests,
        }),
        expected_revision: args.expected_revision,
        reason: args.reason,
    };
    client.start_canary(&args.deployment, &request).await
}

fn canary_text(canary: &Canary) -> String {
    let steps = canary.steps.iter().enumerate().map(|(place, percent)| {
        if place + 1 == canary.step {
            format!("[{percent} %]")
        } else {
            format!("{percent} %")
        }
    });
    let mut lines = vec![
        ("candidate", canary.candidate.clone()),
        ("state", canary.status.to_string()),
        ("steps", steps.collect::<Vec<_>>().join(" ")),
        ("seconds a step", canary.step_seconds.to_string()),
        ("began", ago(canary.created_at)),
    ];
    if let Some(reason) = &canary.reason {
        lines.push(("reason", reason.clone()));
    }
    details(&lines)
}

pub(super) async fn shadow(
    client: &ApiClient,
    command: ShadowCommand,
    printer: Printer,
) -> anyhow::Result<()> {
    let text = |shadow: &Shadow| {
        format!(
            "{} gets copies of {} % of the requests",
            shadow.version, shadow.percent
        )
    };
    match command {
        ShadowCommand::Set {
            deployment,
            version,
            percent,
        } => {
            let request = ShadowRequest {
                adapter: version.adapter,
                version: version.version,
                alias: version.alias,
                percent,
            };
            let shadow = client.set_shadow(&deployment, &request).await?;
            printer.result(&shadow, || text(&shadow));
        }
        ShadowCommand::Show { deployment } => {
            let shadow = client.shadow(&deployment).await?;
            printer.result(&shadow, || text(&shadow));
        }
        ShadowCommand::End { deployment } => {
            let ended = client.end_shadow(&deployment).await?;
            printer.result(&ended, || {
                format!("nothing gets copies of the requests of {deployment} any more")
            });
        }
    }
    Ok(())
}

/// Figures by version, then how they differ.
pub(super) fn show_stats(stats: &DeploymentStats, printer: Printer) {
    printer.result(stats, || {
        let mut parts = vec![table(
            &[
                "version",
                "share",
                "requests",
                "errors",
                "tokens",
                "ttft p50",
                "ttft p95",
                "ms a token",
                "feedback",
            ],
            stats.arms.iter().map(arm_row).collect(),
        )];
        for difference in &stats.differences {
            let figures = [
                ("error rate", difference.error_rate),
                ("time to first token, ms", difference.time_to_first_token_ms),
                ("time to answer, ms", difference.time_to_answer_ms),
                ("time a token, ms", difference.time_per_token_ms),
                ("feedback", difference.feedback),
            ];
            let rows = figures
                .into_iter()
                .filter_map(|(name, figure)| figure.map(|figure| difference_row(name, &figure)));
            let heading = format!("{} less {}", difference.version, difference.baseline);
            parts.push(table(
                &[&heading, "difference", "95 % interval", ""],
                rows.collect(),
            ));
        }
        if !stats.shadows.is_empty() {
            let rows = stats.shadows.iter().map(|shadow| {
                vec![
                    shadow.version.clone(),
                    shadow.requests.to_string(),
                    shadow.errors.to_string(),
                    shadow.dropped.to_string(),
                    format!("{} of {}", shadow.equal, shadow.compared),
                    number(shadow.mean_similarity, 3),
                ]
            });
            let headings = [
                "shadow",
                "requests",
                "errors",
                "dropped",
                "same text",
                "similarity",
            ];
            parts.push(table(&headings, rows.collect()));
        }
        parts.join("\n\n")
    });
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn arm_row(arm: &Arm) -> Vec<String> {
    vec![
        arm.version.clone(),
        format!("{} %", arm.weight),
        arm.requests.to_string(),
        arm.errors.to_string(),
        (arm.prompt_tokens + arm.completion_tokens).to_string(),
        number(arm.time_to_first_token_ms.p50, 1),
        number(arm.time_to_first_token_ms.p95, 1),
        number(arm.time_per_token_ms.p50, 2),
        arm.feedback_mean.map_or_else(
            || "-".to_owned(),
            |mean| format!("{mean:.2} ({})", arm.feedback_count),
        ),
    ]
}

fn difference_row(name: &str, figure: &Difference) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:+.3}", figure.value),
        format!("{:+.3} to {:+.3}", figure.low, figure.high),
        if figure.significant { "significant" } else { "" }.to_owned(),
    ]
}
