//! How the versions of a deployment do beside each other.

use std::collections::HashMap;

use tunesmith_store::figures::{self, ArmFigures, MirrorFigures, Scope, Spread};
use tunesmith_types::api::rollouts as body;
use tunesmith_types::ids::AdapterVersionId;
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::statistics::Estimate;

use super::deployments::find;
use crate::error::ApiError;
use crate::state::ApiState;

const DEFAULT_WINDOW: i64 = 24 * 3600;
const LONGEST_WINDOW: i64 = 90 * 24 * 3600;

/// Figures of each version that was asked within the window, and their differences.
///
/// # Errors
/// The organization has no such deployment, or the window is wrong.
pub async fn of_deployment(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    query: &body::StatsQuery,
) -> Result<body::DeploymentStats, ApiError> {
    let window = parse_window(query.window.as_deref())?;
    let deployment = find(state, caller, name).await?;
    let organization = caller.organization_id;
    // A window is at most 90 days, which a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let seconds = window as f64;
    let arms = figures::arms(&state.store, organization, deployment.id, Scope::Seconds(seconds)).await?;
    let mirrors = figures::mirrors(&state.store, organization, deployment.id, seconds).await?;
    let mut weights: HashMap<Option<AdapterVersionId>, i32> = HashMap::new();
    for route in deployment.active.iter().flat_map(|revision| &revision.routes) {
        *weights.entry(route.adapter_version_id).or_default() += i32::from(route.weight);
    }
    let weight = |arm: &ArmFigures| weights.get(&arm.adapter_version_id).copied().unwrap_or(0);
    let baseline = arms.iter().max_by_key(|arm| (weight(arm), arm.requests));
    let differences = baseline.map_or_else(Vec::new, |baseline| {
        let others = arms.iter().filter(|arm| *arm != baseline);
        others.map(|arm| difference(arm, baseline)).collect()
    });
    Ok(body::DeploymentStats {
        object: "deployment_stats".to_owned(),
        deployment: deployment.name.to_string(),
        window_seconds: window,
        arms: arms.iter().map(|arm| arm_view(arm, weight(arm))).collect(),
        differences,
        shadows: mirrors.into_iter().map(shadow_view).collect(),
    })
}

/// `15m`, `24h`, `7d`, or seconds.
fn parse_window(text: Option<&str>) -> Result<i64, ApiError> {
    let Some(text) = text else {
        return Ok(DEFAULT_WINDOW);
    };
    let (digits, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(b'd') => (&text[..text.len() - 1], 24 * 3600),
        _ => (text, 1),
    };
    let seconds = digits
        .parse::<u32>()
        .ok()
        .and_then(|count| i64::from(count).checked_mul(unit));
    seconds
        .filter(|seconds| (1..=LONGEST_WINDOW).contains(seconds))
        .ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let message =
                format!("`window` must be a time up to 90 days, like `15m`, `24h` or `7d`; it is `{shown}`.");
            ApiError::parameter("window", message)
        })
}

fn arm_view(arm: &ArmFigures, weight: i32) -> body::Arm {
    body::Arm {
        version: arm.version.clone(),
        weight,
        requests: arm.requests,
        errors: arm.errors,
        error_rate: arm.failed().wilson().map(|rate| rate.value),
        cancelled: arm.cancelled,
        rejected: arm.rejected,
        prompt_tokens: arm.prompt_tokens,
        completion_tokens: arm.completion_tokens,
        time_to_first_token_ms: quantiles(&arm.first_token_ms),
        time_to_answer_ms: quantiles(&arm.whole_answer_ms),
        time_per_token_ms: quantiles(&arm.token_ms),
        feedback_count: arm.feedback.count,
        feedback_mean: (arm.feedback.count > 0).then_some(arm.feedback.mean),
    }
}

fn quantiles(spread: &Spread) -> body::Quantiles {
    body::Quantiles {
        count: spread.sample.count,
        mean: (spread.sample.count > 0).then_some(spread.sample.mean),
        p50: spread.p50,
        p95: spread.p95,
    }
}

fn difference(arm: &ArmFigures, baseline: &ArmFigures) -> body::ArmDifference {
    let of = |spread: fn(&ArmFigures) -> &Spread| {
        let estimate = spread(arm).sample.less(spread(baseline).sample);
        estimate.map(difference_view)
    };
    body::ArmDifference {
        version: arm.version.clone(),
        baseline: baseline.version.clone(),
        error_rate: arm.failed().less(baseline.failed()).map(difference_view),
        time_to_first_token_ms: of(|arm| &arm.first_token_ms),
        time_to_answer_ms: of(|arm| &arm.whole_answer_ms),
        time_per_token_ms: of(|arm| &arm.token_ms),
        feedback: arm.feedback.less(baseline.feedback).map(difference_view),
    }
}

fn difference_view(estimate: Estimate) -> body::Difference {
    let Estimate { value, low, high } = estimate;
    body::Difference {
        value,
        low,
        high,
        significant: low > 0.0 || high < 0.0,
    }
}

fn shadow_view(figures: MirrorFigures) -> body::ShadowStats {
    body::ShadowStats {
        version: figures.version,
        requests: figures.requests,
        errors: figures.errors,
        dropped: figures.dropped,
        compared: figures.compared,
        equal: figures.equal,
        mean_similarity: figures.mean_similarity,
        completion_tokens: figures.completion_tokens,
        p50_ms: figures.p50_ms,
        p95_ms: figures.p95_ms,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_window_has_a_unit() {
        for (text, seconds) in [
            ("15m", 900),
            ("24h", 86_400),
            ("7d", 604_800),
            ("30s", 30),
            ("30", 30),
        ] {
            assert_eq!(parse_window(Some(text)).unwrap(), seconds);
        }
        for wrong in ["", "h", "0m", "-1h", "91d", "1w", "1.5h", "99999999999d", "1µ"] {
            assert!(parse_window(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
