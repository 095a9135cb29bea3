//! Whether a canary may take its next step: its gates against the figures of both sides.

use tunesmith_store::figures::{ArmFigures, Spread};
use tunesmith_types::rollouts::CanaryGates;

/// What the figures say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Too little is known.
    Wait(String),
    /// A gate failed; the words have the numbers.
    Fail(String),
}

/// Judges a step that has lasted its time. `stable` is what the candidate is compared with; none where nobody was
/// answered by it.
pub(crate) fn judge(
    gates: &CanaryGates,
    candidate: Option<&ArmFigures>,
    stable: Option<&ArmFigures>,
) -> Verdict {
    let least = gates.least_requests();
    let requests = candidate.map_or(0, |figures| figures.requests);
    let Some(candidate) = candidate.filter(|_| requests >= i64::from(least)) else {
        return Verdict::Wait(format!(
            "{requests} of at least {least} requests to the candidate"
        ));
    };
    let failed = error_rate(gates, candidate)
        .or_else(|| latency(gates, candidate, stable))
        .or_else(|| feedback(gates, candidate, stable));
    failed.map_or(Verdict::Pass, Verdict::Fail)
}

/// Whether the candidate fails so often that waiting for the end of the step is pointless: even the lower end of the
/// 95 % interval of its error rate is above the gate.
pub(crate) fn hopeless(gates: &CanaryGates, candidate: &ArmFigures) -> Option<String> {
    let most = gates.max_error_rate?;
    let rate = candidate.failed().wilson()?;
    (candidate.requests >= i64::from(gates.least_requests()) && rate.low > most).then(|| {
        format!(
            "the error rate is {:.3} ({} of {} requests; at least {:.3} with 95 % confidence), above max_error_rate {most}",
            rate.value, candidate.errors, candidate.requests, rate.low
        )
    })
}

fn error_rate(gates: &CanaryGates, candidate: &ArmFigures) -> Option<String> {
    let most = gates.max_error_rate?;
    let rate = candidate.failed().wilson()?.value;
    (rate > most).then(|| {
        format!(
            "the error rate is {rate:.3} ({} of {} requests), above max_error_rate {most}",
            candidate.errors, candidate.requests
        )
    })
}

/// The figure by which latency is judged: the time to the first token where answers were streamed, of whole answers
/// otherwise.
fn latency(gates: &CanaryGates, candidate: &ArmFigures, stable: Option<&ArmFigures>) -> Option<String> {
    let (name, of): (_, fn(&ArmFigures) -> &Spread) = if candidate.first_token_ms.p95.is_some() {
        ("time to the first token", |figures| &figures.first_token_ms)
    } else {
        ("time to the answer", |figures| &figures.whole_answer_ms)
    };
    let p95 = of(candidate).p95?;
    if let Some(most) = gates.max_ttft_p95_ms
        && p95 > most
    {
        return Some(format!(
            "the 95th percentile of the {name} is {p95:.1} ms, above max_ttft_p95_ms {most}"
        ));
    }
    let most = gates.max_ttft_ratio?;
    let beside = of(stable?).p95?;
    let ratio = p95 / beside;
    (ratio > most).then(|| {
        format!(
            "the 95th percentile of the {name} is {p95:.1} ms against {beside:.1} ms, a ratio of {ratio:.2}, above max_ttft_ratio {most}"
        )
    })
}

fn feedback(gates: &CanaryGates, candidate: &ArmFigures, stable: Option<&ArmFigures>) -> Option<String> {
    let least = gates.min_feedback_difference?;
    let (ours, theirs) = (candidate.feedback, stable?.feedback);
    let enough = u64::from(gates.least_feedback());
    if ours.count < enough || theirs.count < enough {
        return None;
    }
    let difference = ours.mean - theirs.mean;
    (difference < least).then(|| {
        format!(
            "the mean feedback is {:.3} ({} scores) against {:.3} ({}), a difference of {difference:.3}, below min_feedback_difference {least}",
            ours.mean, ours.count, theirs.mean, theirs.count
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tunesmith_types::statistics::Sample;

    use super::*;

    fn spread(p95: Option<f64>) -> Spread {
        Spread {
            sample: Sample {
                count: 0,
                mean: 0.0,
                variance: 0.0,
            },
            p50: p95,
            p95,
        }
    }

    fn figures(requests: i64, errors: i64, first: Option<f64>, feedback: (u64, f64)) -> ArmFigures {
        ArmFigures {
            adapter_version_id: None,
            version: "base".to_owned(),
            requests,
            errors,
            cancelled: 0,
            rejected: 0,
            prompt_tokens: 0,
            completion_tokens: 0,
            first_token_ms: spread(first),
            whole_answer_ms: spread(Some(500.0)),
            token_ms: spread(None),
            feedback: Sample {
                count: feedback.0,
                mean: feedback.1,
                variance: 0.1,
            },
        }
    }

    #[test]
    fn each_gate_fails_with_its_numbers() {
        let gates = CanaryGates {
            max_error_rate: Some(0.05),
            max_ttft_ratio: Some(1.5),
            max_ttft_p95_ms: Some(400.0),
            min_feedback_difference: Some(-0.2),
            min_feedback: None,
            min_requests: Some(50),
        };
        let stable = figures(950, 10, Some(100.0), (100, 0.8));
        let good = figures(50, 1, Some(140.0), (20, 0.7));
        assert_eq!(judge(&gates, Some(&good), Some(&stable)), Verdict::Pass);
        assert_eq!(judge(&gates, Some(&good), None), Verdict::Pass);
        assert_eq!(
            judge(&gates, Some(&figures(49, 0, None, (0, 0.0))), Some(&stable)),
            Verdict::Wait("49 of at least 50 requests to the candidate".to_owned())
        );
        assert!(matches!(judge(&gates, None, Some(&stable)), Verdict::Wait(_)));
        for (bad, words) in [
            (figures(50, 6, Some(100.0), (0, 0.0)), "0.120 (6 of 50 requests)"),
            (
                figures(50, 0, Some(160.0), (0, 0.0)),
                "160.0 ms against 100.0 ms, a ratio of 1.60",
            ),
            (figures(50, 0, Some(401.0), (0, 0.0)), "above max_ttft_p95_ms 400"),
            (figures(50, 0, None, (0, 0.0)), "time to the answer is 500.0 ms"),
            (figures(50, 0, Some(100.0), (10, 0.5)), "a difference of -0.300"),
        ] {
            let Verdict::Fail(reason) = judge(&gates, Some(&bad), Some(&stable)) else {
                panic!("{bad:?} passes");
            };
            assert!(reason.contains(words), "{reason}");
        }
        let few_scores = figures(50, 0, Some(100.0), (9, -1.0));
        assert_eq!(judge(&gates, Some(&few_scores), Some(&stable)), Verdict::Pass);
        assert_eq!(
            judge(
                &CanaryGates::default(),
                Some(&figures(20, 20, None, (0, 0.0))),
                None
            ),
            Verdict::Pass
        );
    }

    #[test]
    fn only_a_clear_case_is_hopeless() {
        let gates = CanaryGates {
            max_error_rate: Some(0.05),
            min_requests: Some(20),
            ..CanaryGates::default()
        };
        assert_eq!(hopeless(&gates, &figures(19, 19, None, (0, 0.0))), None);
        assert_eq!(hopeless(&gates, &figures(20, 2, None, (0, 0.0))), None);
        assert!(
            hopeless(&gates, &figures(20, 10, None, (0, 0.0)))
                .unwrap()
                .contains("10 of 20")
        );
        assert_eq!(
            hopeless(&CanaryGates::default(), &figures(20, 20, None, (0, 0.0))),
            None
        );
    }
}
