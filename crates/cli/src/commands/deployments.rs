//! `deployments create|promote|split|rollback|list|show`; the others are in `rollouts`.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use tunesmith_types::{
    api::{
        deployments::{CreateDeploymentRequest, Deployment, PromoteRequest, Revision},
        rollouts::StatsQuery,
    },
    list::List,
    states::RevisionState,
};

use super::{page, rollouts, say_more};
use crate::{
    args::client::{DeploymentsCommand, ListArgs, PromotionArgs},
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::ago,
};

/// Between two looks at a revision on its way.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) async fn run(
    client: &ApiClient,
    command: DeploymentsCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        DeploymentsCommand::Create {
            name,
            base,
            adapter,
            promotion: PromotionArgs { version, no_wait },
        } => {
            if version.is_some() && adapter.is_none() {
                bail!("--version is a version of an adapter; name it with --adapter");
            }
            let request = CreateDeploymentRequest {
                name,
                base_model: base,
                adapter,
                version,
                alias: None,
            };
            let made = client.create_deployment(&request).await?;
            finish(client, made, no_wait, printer).await?;
        }
        DeploymentsCommand::Promote {
            deployment,
            version,
            revision,
        } => {
            let request = PromoteRequest {
                adapter: version.adapter,
                version: version.version,
                alias: version.alias,
                expected_revision: revision.expected_revision,
                reason: revision.reason,
            };
            let promoted = client.promote(&deployment, &request).await?;
            finish(client, promoted, revision.no_wait, printer).await?;
        }
        DeploymentsCommand::Split {
            deployment,
            routes,
            revision,
        } => {
            let request = rollouts::split_request(routes, &revision);
            let split = client.split(&deployment, &request).await?;
            finish(client, split, revision.no_wait, printer).await?;
        }
        DeploymentsCommand::Rollback {
            deployment,
            to_revision,
            revision,
        } => {
            let request = rollouts::rollback_request(to_revision, &revision);
            let back = client.roll_back(&deployment, &request).await?;
            finish(client, back, revision.no_wait, printer).await?;
        }
        DeploymentsCommand::Canary(command) => rollouts::canary(client, command, printer).await?,
        DeploymentsCommand::Shadow(command) => rollouts::shadow(client, command, printer).await?,
        DeploymentsCommand::Stats { deployment, window } => {
            let query = StatsQuery { window: Some(window) };
            rollouts::show_stats(&client.stats(&deployment, &query).await?, printer);
        }
        DeploymentsCommand::List(list) => list_deployments(client, &list, printer).await?,
        DeploymentsCommand::Show { deployment } => show(&client.deployment(&deployment).await?, printer),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_deployments(client: &ApiClient, list: &ListArgs, printer: Printer) -> anyhow::Result<()> {
    let deployments: List<Deployment> = client.list("/v1/deployments", &page(list)).await?;
    printer.result(&deployments, || {
        let rows = deployments.data.iter().map(|deployment| {
            let answers = deployment
                .active_revision
                .as_ref()
                .map_or_else(|| "-".to_owned(), routes);
            let latest = deployment
                .latest_revision
                .as_ref()
                .map_or_else(|| "-".to_owned(), described);
            let name = deployment.name.clone();
            vec![
                name,
                deployment.base_model.clone(),
                answers,
                latest,
                ago(deployment.created_at),
            ]
        });
        table(
            &["name", "base model", "answers", "newest revision", "created"],
            rows.collect(),
        )
    });
    say_more(printer, deployments.has_more, deployments.last_id.as_deref());
    Ok(())
}

async fn finish(client: &ApiClient, made: Deployment, no_wait: bool, printer: Printer) -> anyhow::Result<()> {
    let shown = if no_wait { made } else { wait(client, made).await? };
    show(&shown, printer);
    Ok(())
}

/// Waits until the newest revision of `made` answers.
///
/// # Errors
/// It failed, or a newer one came between.
pub(super) async fn wait(client: &ApiClient, made: Deployment) -> anyhow::Result<Deployment> {
    let Some(wanted) = made.latest_revision.as_ref().map(|revision| revision.number) else {
        return Ok(made);
    };
    loop {
        let now = client.deployment(&made.name).await?;
        let Some(revision) = now.revisions.iter().find(|revision| revision.number == wanted) else {
            bail!("revision {wanted} of `{}` is gone", made.name);
        };
        match revision.status {
            RevisionState::Pending => tokio::time::sleep(PAUSE).await,
            RevisionState::Active => return Ok(now),
            RevisionState::Superseded => bail!(
                "revision {wanted} of `{}` was overtaken by a newer one",
                made.name
            ),
            RevisionState::Failed => {
                let reason = revision.reason.as_deref().unwrap_or("no reason was given");
                bail!("revision {wanted} of `{}` failed: {reason}", made.name);
            }
        }
    }
}

fn routes(revision: &Revision) -> String {
    let routes = revision.routes.iter().map(|route| match route.weight {
        100 => route.target.clone(),
        weight => format!("{} {weight} %", route.target),
    });
    routes.collect::<Vec<_>>().join(", ")
}

fn described(revision: &Revision) -> String {
    format!("{} {}", revision.number, revision.status)
}

fn show(deployment: &Deployment, printer: Printer) {
    printer.result(deployment, || {
        let head = details(&[
            ("name", deployment.name.clone()),
            ("id", deployment.id.to_string()),
            ("base model", deployment.base_model.clone()),
            (
                "answers",
                deployment
                    .active_revision
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), routes),
            ),
            ("created", ago(deployment.created_at)),
        ]);
        let rows = deployment.revisions.iter().map(|revision| {
            let reason = revision
                .reason
                .clone()
                .or(revision.note.clone())
                .unwrap_or_default();
            vec![
                revision.number.to_string(),
                revision.kind.to_string(),
                revision.status.to_string(),
                routes(revision),
                ago(revision.created_at),
                reason,
            ]
        });
        format!(
            "{head}\n\n{}",
            table(
                &["revision", "kind", "state", "routes", "created", "reason"],
                rows.collect()
            )
        )
    });
}
