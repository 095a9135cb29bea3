//! Moves canaries from step to step. Everything that it knows lies in the database, so it may die between any two
//! lines; every move is a compare-and-set, so that of many controllers one makes it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tunesmith_store::{
    Store, StoreError,
    figures::{self, ArmFigures, Scope},
    rollouts::{self, Canary},
};
use tunesmith_types::states::{CanaryState, RevisionState};

use crate::gates::{self, Verdict};

/// Looks at all canaries every so often, until `shutdown`.
pub(crate) async fn control(store: Store, every: Duration, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let canaries = match rollouts::running(&store).await {
            Ok(canaries) => canaries,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot read the canaries; the next round will");
                continue;
            }
        };
        for canary in canaries {
            match proceed(&store, &canary).await {
                Ok(()) => {}
                Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
                    tracing::info!(canary = %canary.id, "the canary was moved on by somebody else");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(canary = %canary.id, error, "cannot move a canary on; the next round will");
                }
            }
        }
    }
}

async fn proceed(store: &Store, canary: &Canary) -> Result<(), StoreError> {
    match canary.revision_state {
        RevisionState::Pending => {
            return rollouts::say(store, canary, "waits until the replicas hold the version").await;
        }
        RevisionState::Failed => {
            let reason = canary.revision_reason.as_deref().unwrap_or("no reason was given");
            return stop(store, canary, reason).await;
        }
        // Whoever made the newer revision ends the canary with it.
        RevisionState::Superseded => return Ok(()),
        RevisionState::Active => {}
    }
    let (candidate, stable) = sides(store, canary).await?;
    if let Some(reason) = candidate
        .as_ref()
        .and_then(|candidate| gates::hopeless(&canary.gates, candidate))
    {
        return stop(store, canary, &reason).await;
    }
    if canary.seconds_in_step.unwrap_or_default() < f64::from(canary.step_seconds) {
        return Ok(());
    }
    match gates::judge(&canary.gates, candidate.as_ref(), stable.as_ref()) {
        Verdict::Wait(words) => rollouts::say(store, canary, &words).await,
        Verdict::Fail(reason) => stop(store, canary, &reason).await,
        Verdict::Pass if canary.step + 1 == canary.steps.len() => {
            tracing::info!(canary = %canary.id, "the canary has all requests");
            let words = "every step passed its gates";
            rollouts::end(store, canary, CanaryState::Completed, words, None).await
        }
        Verdict::Pass => {
            rollouts::advance(store, canary).await?;
            tracing::info!(canary = %canary.id, step = canary.step + 2, "the canary took its next step");
            Ok(())
        }
    }
}

/// The candidate in the present step, and the stable version with the most requests: in the present step too or,
/// where the candidate has them all, in the steps before.
async fn sides(
    store: &Store,
    canary: &Canary,
) -> Result<(Option<ArmFigures>, Option<ArmFigures>), StoreError> {
    let (organization, deployment) = (canary.organization_id, canary.deployment_id);
    let is_candidate = |figures: &ArmFigures| figures.adapter_version_id == Some(canary.candidate);
    let now = [canary.revision()];
    let present = figures::arms(store, organization, deployment, Scope::Revisions(&now)).await?;
    let (candidate, mut stable): (Vec<_>, Vec<_>) = present.into_iter().partition(is_candidate);
    if canary.percent() == 100 {
        let scope = Scope::Revisions(&canary.revisions);
        stable = figures::arms(store, organization, deployment, scope).await?;
        stable.retain(|figures| !is_candidate(figures));
    }
    let busiest = stable.into_iter().max_by_key(|figures| figures.requests);
    Ok((candidate.into_iter().next(), busiest))
}

async fn stop(store: &Store, canary: &Canary, why: &str) -> Result<(), StoreError> {
    let reason = format!(
        "step {} of {} ({} %): {why}",
        canary.step + 1,
        canary.steps.len(),
        canary.percent()
    );
    rollouts::end(store, canary, CanaryState::Stopped, &reason, None).await?;
    tracing::warn!(canary = %canary.id, reason, "the canary was stopped");
    Ok(())
}
