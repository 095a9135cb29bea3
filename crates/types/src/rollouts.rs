//! How a canary proceeds: its steps, and the gates between them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ParameterError;

/// Percent of the requests by step, where none are given.
pub const DEFAULT_STEPS: [u8; 4] = [5, 25, 50, 100];
/// Length of a step, where none is given.
pub const DEFAULT_STEP_SECONDS: u32 = 600;
/// A step is over no sooner than after this many requests to the candidate, where nothing else is said.
pub const DEFAULT_MIN_REQUESTS: u32 = 20;
/// Scores that each side needs before they are compared, where nothing else is said.
pub const DEFAULT_MIN_FEEDBACK: u32 = 10;
const MOST_STEPS: usize = 20;
const LONGEST_STEP: u32 = 30 * 24 * 3600;

/// What must hold before a canary takes its next step. The candidate is compared with the stable versions over the
/// same requests. A gate that is absent holds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryGates {
    /// Largest share of failed requests of the candidate, from 0 to 1.
    #[schema(example = 0.02)]
    pub max_error_rate: Option<f64>,
    /// Largest 95th percentile of the candidate's time to the first token (of whole answers, where nobody streams), as
    /// a multiple of the stable versions'.
    pub max_ttft_ratio: Option<f64>,
    /// Largest 95th percentile of the candidate's time to the first token, in milliseconds.
    pub max_ttft_p95_ms: Option<f64>,
    /// Least difference of the mean feedback, candidate less stable, from -2 to 2.
    #[schema(example = -0.1)]
    pub min_feedback_difference: Option<f64>,
    /// Scores that each side needs before they are compared (default 10).
    pub min_feedback: Option<u32>,
    /// Requests to the candidate before a step can be over (default 20).
    pub min_requests: Option<u32>,
}

impl CanaryGates {
    fn check(&self) -> Result<(), ParameterError> {
        let within = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
            Some(value) if !(low..=high).contains(&value) => Err(ParameterError::new(
                format!("gates.{name}"),
                format!("`{name}` must lie between {low} and {high}; it is {value}."),
            )),
            _ => Ok(()),
        };
        within("max_error_rate", self.max_error_rate, 0.0, 1.0)?;
        within("max_ttft_ratio", self.max_ttft_ratio, 0.01, 1000.0)?;
        within("max_ttft_p95_ms", self.max_ttft_p95_ms, 0.001, 1e9)?;
        within("min_feedback_difference", self.min_feedback_difference, -2.0, 2.0)
    }

    /// Requests to the candidate before a step can be over.
    #[must_use]
    pub fn least_requests(&self) -> u32 {
        self.min_requests.unwrap_or(DEFAULT_MIN_REQUESTS)
    }

    /// Scores that each side needs before they are compared.
    #[must_use]
    pub fn least_feedback(&self) -> u32 {
        self.min_feedback.unwrap_or(DEFAULT_MIN_FEEDBACK).max(1)
    }
}

/// A checked course of a canary.
#[derive(Debug, Clone, PartialEq)]
pub struct CanaryPlan {
    steps: Vec<u8>,
    step_seconds: u32,
    gates: CanaryGates,
}

impl CanaryPlan {
    /// Checks a course; what is absent gets its default.
    ///
    /// # Errors
    /// Steps that do not rise to 100, or anything outside its bounds.
    pub fn new(
        steps: Option<&[i64]>,
        step_seconds: Option<i64>,
        gates: Option<CanaryGates>,
    ) -> Result<Self, ParameterError> {
        let steps = match steps {
            None => DEFAULT_STEPS.to_vec(),
            Some(steps) => parse_steps(steps)?,
        };
        let step_seconds = match step_seconds {
            None => DEFAULT_STEP_SECONDS,
            Some(seconds) => u32::try_from(seconds)
                .ok()
                .filter(|seconds| (1..=LONGEST_STEP).contains(seconds))
                .ok_or_else(|| {
                    let message =
                        format!("`step_seconds` must lie between 1 and {LONGEST_STEP}; it is {seconds}.");
                    ParameterError::new("step_seconds", message)
                })?,
        };
        let gates = gates.unwrap_or_default();
        gates.check()?;
        Ok(Self {
            steps,
            step_seconds,
            gates,
        })
    }

    /// Percent of the requests by step, rising to 100.
    #[must_use]
    pub fn steps(&self) -> &[u8] {
        &self.steps
    }

    /// Length of a step.
    #[must_use]
    pub const fn step_seconds(&self) -> u32 {
        self.step_seconds
    }

    /// What must hold before the next step.
    #[must_use]
    pub const fn gates(&self) -> &CanaryGates {
        &self.gates
    }
}

fn parse_steps(given: &[i64]) -> Result<Vec<u8>, ParameterError> {
    let steps: Vec<u8> = given
        .iter()
        .filter_map(|step| u8::try_from(*step).ok())
        .filter(|step| (1..=100).contains(step))
        .collect();
    let rises = steps.windows(2).all(|pair| pair[0] < pair[1]);
    if steps.len() == given.len() && rises && steps.len() <= MOST_STEPS && steps.last() == Some(&100) {
        return Ok(steps);
    }
    let message = format!(
        "`steps` must be up to {MOST_STEPS} whole percentages that rise and end with 100, like [5, 25, 50, 100]; it is {given:?}."
    );
    Err(ParameterError::new("steps", message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_absent_has_a_default() {
        let plan = CanaryPlan::new(None, None, None).unwrap();
        assert_eq!((plan.steps(), plan.step_seconds()), (&[5, 25, 50, 100][..], 600));
        assert_eq!(plan.gates().least_requests(), 20);
    }

    #[test]
    fn each_fault_names_its_field() {
        let wrong_steps: [&[i64]; 6] = [&[], &[5, 25], &[5, 5, 100], &[50, 5, 100], &[0, 100], &[300, 100]];
        for steps in wrong_steps {
            let error = CanaryPlan::new(Some(steps), None, None).unwrap_err();
            assert_eq!(error.param, "steps", "{steps:?}");
        }
        let error = CanaryPlan::new(None, Some(0), None).unwrap_err();
        assert_eq!(error.param, "step_seconds");
        let gates = CanaryGates {
            max_error_rate: Some(2.0),
            ..CanaryGates::default()
        };
        let error = CanaryPlan::new(None, None, Some(gates)).unwrap_err();
        assert_eq!(error.param, "gates.max_error_rate");
        let gates = CanaryGates {
            max_ttft_ratio: Some(f64::NAN),
            ..CanaryGates::default()
        };
        assert!(CanaryPlan::new(None, None, Some(gates)).is_err());
    }
}
