//! `deployments split|canary|shadow|rollback|stats`, `usage`, `feedback`

use clap::{Args, Subcommand};

/// A route as typed: `support@7=70`, `support@champion=30`, `support=30` (the newest version) or `base=10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteArg {
    /// None for the base model.
    pub(crate) adapter: Option<String>,
    pub(crate) version: Option<i32>,
    pub(crate) alias: Option<String>,
    pub(crate) weight: i64,
}

impl std::str::FromStr for RouteArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || format!("`{text}` is no route; write `support@7=70`, `support@champion=30` or `base=10`");
        let (target, weight) = text.rsplit_once('=').ok_or_else(form)?;
        let weight = weight.trim_end_matches('%').parse().map_err(|_| form())?;
        let (adapter, which) = match target.split_once('@') {
            Some((adapter, which)) => (adapter, Some(which)),
            None => (target, None),
        };
        if adapter.is_empty() || which.is_some_and(str::is_empty) {
            return Err(form());
        }
        let version: Option<i32> = which.and_then(|which| which.parse().ok());
        Ok(Self {
            adapter: (adapter != "base" || which.is_some()).then(|| adapter.to_owned()),
            version,
            alias: which
                .filter(|which| version.is_none() && *which != "latest")
                .map(ToOwned::to_owned),
            weight,
        })
    }
}

/// Which version of which adapter.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Name of the adapter.
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: String,
    /// Number of the version [default: the newest].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) version: Option<i32>,
    /// Alias of the version, in place of its number.
    #[arg(long, value_name = "NAME", conflicts_with = "version")]
    pub(crate) alias: Option<String>,
}

/// On top of what, why, and whether to wait.
#[derive(Debug, Args)]
pub(crate) struct RevisionArgs {
    /// Number of the newest revision as you know it; where another came between, nothing changes.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expected_revision: Option<i32>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Return before the revision answers.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `deployments canary …`
#[derive(Debug, Subcommand)]
pub(crate) enum CanaryCommand {
    /// Give a version a share of the requests that grows by steps.
    Start(Box<StartCanaryArgs>),
    /// Show the newest canary.
    Show {
        /// Name of the deployment.
        deployment: String,
    },
    /// End the canary and go back to where requests went before.
    Abort {
        /// Name of the deployment.
        deployment: String,
    },
}

/// `deployments canary start`
#[derive(Debug, Args)]
pub(crate) struct StartCanaryArgs {
    /// Name of the deployment.
    pub(crate) deployment: String,
    #[command(flatten)]
    pub(crate) version: VersionArgs,
    /// Percent of the requests by step, rising to 100.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
    pub(crate) steps: Option<Vec<i64>>,
    /// Length of a step [default: 600].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) step_seconds: Option<i64>,
    /// Largest share of failed requests, from 0 to 1.
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_error_rate: Option<f64>,
    /// Largest 95th percentile of the time to the first token, as a multiple of the others'.
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_ttft_ratio: Option<f64>,
    /// Largest 95th percentile of the time to the first token.
    #[arg(long, value_name = "MILLISECONDS")]
    pub(crate) max_ttft_p95_ms: Option<f64>,
    /// Least difference of the mean feedback.
    #[arg(long, value_name = "DIFFERENCE", allow_negative_numbers = true)]
    pub(crate) min_feedback_difference: Option<f64>,
    /// Requests before a step can be over [default: 20].
    #[arg(long, value_name = "COUNT")]
    pub(crate) min_requests: Option<u32>,
    /// Number of the newest revision as you know it.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expected_revision: Option<i32>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// `deployments shadow …`
#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Send copies of requests to a version, and compare its answers.
    Set {
        /// Name of the deployment.
        deployment: String,
        #[command(flatten)]
        version: VersionArgs,
        /// Percent of the requests [default: 100].
        #[arg(long)]
        percent: Option<i64>,
    },
    /// Show what gets copies.
    Show {
        /// Name of the deployment.
        deployment: String,
    },
    /// Send no more copies.
    End {
        /// Name of the deployment.
        deployment: String,
    },
}

/// `usage`
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Days back from now.
    #[arg(long, default_value_t = 30)]
    pub(crate) days: i64,
    /// Any of day, model and version, with commas between.
    #[arg(long, default_value = "day,model,version")]
    pub(crate) group_by: String,
}

/// `feedback`
#[derive(Debug, Args)]
pub(crate) struct FeedbackArgs {
    /// Id of the completion (`chatcmpl-…`).
    pub(crate) id: String,
    /// From -1 (bad) to 1 (good).
    #[arg(allow_negative_numbers = true)]
    pub(crate) score: f64,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn routes_are_read_as_they_are_shown() {
        let route = |adapter: Option<&str>, version, alias: Option<&str>, weight| RouteArg {
            adapter: adapter.map(ToOwned::to_owned),
            version,
            alias: alias.map(ToOwned::to_owned),
            weight,
        };
        for (text, wanted) in [
            ("support@7=70", route(Some("support"), Some(7), None, 70)),
            (
                "support@champion=30%",
                route(Some("support"), None, Some("champion"), 30),
            ),
            ("support@latest=1", route(Some("support"), None, None, 1)),
            ("support=1", route(Some("support"), None, None, 1)),
            ("base=10", route(None, None, None, 10)),
            ("base@1=10", route(Some("base"), Some(1), None, 10)),
        ] {
            assert_eq!(text.parse::<RouteArg>().unwrap(), wanted, "{text}");
        }
        for wrong in ["support@7", "=5", "support@=5", "support@7=x"] {
            assert!(wrong.parse::<RouteArg>().is_err(), "{wrong}");
        }
    }
}
