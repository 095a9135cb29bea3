//! What an organization used.

use chrono::{DateTime, Duration, Utc};
use tunesmith_store::requests::{self, UsageGroups};
use tunesmith_types::api::usage as body;
use tunesmith_types::principal::Principal;

use crate::error::ApiError;
use crate::state::ApiState;

const DEFAULT_DAYS: i64 = 30;
const MOST_DAYS: i64 = 400;

/// Usage of the caller's organization, by the groups that are asked for.
///
/// # Errors
/// The time or the groups are wrong.
pub async fn report(
    state: &ApiState,
    caller: &Principal,
    query: &body::UsageQuery,
) -> Result<body::UsageReport, ApiError> {
    let groups = parse_groups(query.group_by.as_deref())?;
    let until = time("to", query.to)?.unwrap_or_else(Utc::now);
    let from = time("from", query.from)?.unwrap_or(until - Duration::days(DEFAULT_DAYS));
    if from >= until || until - from > Duration::days(MOST_DAYS) {
        let message = format!("`from` must lie before `to`, by at most {MOST_DAYS} days.");
        return Err(ApiError::parameter("from", message));
    }
    let rows = requests::usage(&state.store, caller.organization_id, from, until, groups).await?;
    let data = rows.into_iter().map(|row| body::UsageGroup {
        day: row.day.map(|day| day.timestamp()),
        model: row.model,
        version: row.version,
        requests: row.requests,
        errors: row.errors,
        cancelled: row.cancelled,
        prompt_tokens: row.prompt_tokens,
        cached_tokens: row.cached_tokens,
        completion_tokens: row.completion_tokens,
        mirrored_requests: row.mirrored_requests,
        mirrored_tokens: row.mirrored_tokens,
    });
    Ok(body::UsageReport {
        object: "usage".to_owned(),
        from: from.timestamp(),
        to: until.timestamp(),
        data: data.collect(),
    })
}

/// A time between 1970 and 9999, which the database knows.
fn time(param: &str, seconds: Option<i64>) -> Result<Option<DateTime<Utc>>, ApiError> {
    const LAST: i64 = 253_402_300_799;
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    let time = DateTime::from_timestamp(seconds, 0).filter(|_| (0..=LAST).contains(&seconds));
    time.map(Some).ok_or_else(|| {
        let message = format!("`{param}` must be a time in unix seconds; it is {seconds}.");
        ApiError::parameter(param, message)
    })
}

fn parse_groups(text: Option<&str>) -> Result<UsageGroups, ApiError> {
    let mut groups = UsageGroups::default();
    for word in text.unwrap_or("day,model,version").split(',') {
        match word.trim() {
            "" => {}
            "day" => groups.day = true,
            "model" => groups.model = true,
            "version" => groups.version = true,
            other => {
                let shown: String = other.chars().take(40).collect();
                let message = format!(
                    "`group_by` takes `day`, `model` and `version`, with commas between; not `{shown}`."
                );
                return Err(ApiError::parameter("group_by", message));
            }
        }
    }
    Ok(groups)
}
