//! The numbers of a run.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::load::{Arrivals, Finished, Load};
use crate::printer::{details, table};

/// The middle and the end of a distribution, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) most: f64,
}

impl Percentiles {
    /// By nearest rank: each is a value that was measured. Nothing where nothing was measured.
    pub(super) fn of(mut values: Vec<Duration>) -> Option<Self> {
        values.sort_unstable();
        let last = values.len().checked_sub(1)?;
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100);
            values[rank.saturating_sub(1).min(last)].as_secs_f64() * 1e3
        };
        Some(Self {
            p50: at(50),
            p95: at(95),
            p99: at(99),
            most: at(100),
        })
    }

    fn cells(values: Option<Self>) -> Vec<String> {
        let Some(values) = values else {
            return vec!["-".to_owned(); 4];
        };
        let shown = [values.p50, values.p95, values.p99, values.most];
        shown.iter().map(|value| format!("{value:.1}")).collect()
    }
}

/// What is shown at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    model: String,
    /// Requests at once, where they were sent in a closed loop.
    concurrency: Option<u16>,
    /// Requests a second, where they were sent in an open loop.
    rate: Option<f64>,
    seconds: f64,
    requests: usize,
    pub(super) answered: usize,
    /// Failed requests by error code.
    errors: BTreeMap<String, usize>,
    /// Answers by the version that gave them; `-` where the server does not say.
    versions: BTreeMap<String, usize>,
    prompt_tokens: u64,
    completion_tokens: u64,
    answers_per_second: f64,
    tokens_per_second: f64,
    time_to_first_token_ms: Option<Percentiles>,
    time_per_output_token_ms: Option<Percentiles>,
    between_tokens_ms: Option<Percentiles>,
    latency_ms: Option<Percentiles>,
}

impl Report {
    pub(super) fn of(model: &str, load: Load, finished: &Finished) -> Self {
        let mut errors = BTreeMap::new();
        let mut versions = BTreeMap::new();
        let (mut answers, mut latencies) = (Vec::new(), Vec::new());
        for sample in &finished.samples {
            match &sample.outcome {
                Ok(answer) => {
                    let version = answer.version.clone().unwrap_or_else(|| "-".to_owned());
                    *versions.entry(version).or_default() += 1;
                    answers.push(answer);
                    latencies.push(sample.latency);
                }
                Err(code) => *errors.entry(code.clone()).or_default() += 1,
            }
        }
        let seconds = finished.elapsed.as_secs_f64();
        let completion_tokens = answers.iter().map(|answer| answer.completion_tokens).sum();
        let (concurrency, rate) = match load.arrivals {
            Arrivals::Closed(count) => (Some(count), None),
            Arrivals::Open(rate) => (None, Some(rate)),
        };
        Self {
            model: model.to_owned(),
            concurrency,
            rate,
            seconds,
            requests: finished.samples.len(),
            answered: answers.len(),
            errors,
            versions,
            prompt_tokens: answers.iter().filter_map(|answer| answer.prompt_tokens).sum(),
            completion_tokens,
            answers_per_second: answers.len() as f64 / seconds,
            tokens_per_second: completion_tokens as f64 / seconds,
            time_to_first_token_ms: Percentiles::of(
                answers.iter().filter_map(|answer| answer.first).collect(),
            ),
            time_per_output_token_ms: Percentiles::of(
                answers.iter().filter_map(|answer| answer.per_token()).collect(),
            ),
            between_tokens_ms: Percentiles::of(
                answers
                    .iter()
                    .flat_map(|answer| answer.gaps.iter().copied())
                    .collect(),
            ),
            latency_ms: Percentiles::of(latencies),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let counts = |counts: &BTreeMap<String, usize>| {
            let parts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            let text = parts.collect::<Vec<_>>().join(", ");
            if text.is_empty() { "none".to_owned() } else { text }
        };
        let failed = self.requests - self.answered;
        let head = details(&[
            ("requests", format!("{} in {:.1} s", self.requests, self.seconds)),
            (
                "answered",
                format!("{} ({:.1}/s)", self.answered, self.answers_per_second),
            ),
            (
                "errors",
                if failed == 0 {
                    "none".to_owned()
                } else {
                    format!("{failed}: {}", counts(&self.errors))
                },
            ),
            ("versions", counts(&self.versions)),
            ("prompt tokens", self.prompt_tokens.to_string()),
            (
                "output tokens",
                format!("{} ({:.1}/s)", self.completion_tokens, self.tokens_per_second),
            ),
        ]);
        let rows = [
            ("time to first token", self.time_to_first_token_ms),
            ("time per output token", self.time_per_output_token_ms),
            ("between tokens", self.between_tokens_ms),
            ("whole answer", self.latency_ms),
        ];
        let rows = rows.map(|(name, values)| [vec![name.to_owned()], Percentiles::cells(values)].concat());
        let times = table(&["milliseconds", "p50", "p95", "p99", "most"], rows.to_vec());
        format!("{head}\n\n{times}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{
            answer::Answer,
            load::{Sample, Until},
        },
        *,
    };

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let found = Percentiles::of((1..=200).rev().map(ms).collect()).unwrap();
        assert_eq!(
            (found.p50, found.p95, found.p99, found.most),
            (100.0, 190.0, 198.0, 200.0)
        );
        let few = Percentiles::of(vec![ms(30), ms(10), ms(20)]).unwrap();
        assert_eq!((few.p50, few.p95, few.p99, few.most), (20.0, 30.0, 30.0, 30.0));
        let one = Percentiles::of(vec![ms(7)]).unwrap();
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
        assert_eq!(Percentiles::of(Vec::new()), None);
    }

    #[test]
    fn failures_are_counted_apart() {
        let answered = |version: &str, first, last, completion_tokens| Sample {
            latency: ms(last),
            outcome: Ok(Answer {
                version: Some(version.to_owned()),
                first: Some(ms(first)),
                last: ms(last),
                completion_tokens,
                prompt_tokens: Some(10),
                gaps: vec![ms(5)],
            }),
        };
        let failed = |code: &str| Sample {
            latency: ms(1),
            outcome: Err(code.to_owned()),
        };
        let finished = Finished {
            samples: vec![
                answered("support@7", 10, 110, 11),
                answered("support@8", 30, 70, 5),
                answered("support@7", 20, 120, 11),
                failed("rate_limited"),
                failed("rate_limited"),
            ],
            elapsed: Duration::from_secs(3),
            interrupted: false,
        };
        let load = Load {
            arrivals: Arrivals::Open(2.0),
            until: Until::Sent(5),
            seed: 0,
        };
        let report = Report::of("support", load, &finished);
        assert_eq!((report.requests, report.answered), (5, 3));
        assert_eq!(report.errors, BTreeMap::from([("rate_limited".to_owned(), 2)]));
        let versions = [("support@7".to_owned(), 2), ("support@8".to_owned(), 1)];
        assert_eq!(report.versions, BTreeMap::from(versions));
        assert_eq!((report.completion_tokens, report.prompt_tokens), (27, 30));
        assert_eq!((report.tokens_per_second, report.answers_per_second), (9.0, 1.0));
        assert_eq!(report.time_to_first_token_ms.unwrap().p50, 20.0);
        assert_eq!(report.time_per_output_token_ms.unwrap().most, 10.0);
        assert_eq!(report.latency_ms.unwrap().most, 120.0);
        let text = report.text();
        assert!(text.contains("2: rate_limited 2"), "{text}");
        assert!(text.contains("support@7 2, support@8 1"), "{text}");
    }

    #[test]
    fn a_run_without_answers_can_be_shown() {
        let finished = Finished {
            samples: vec![Sample {
                latency: ms(1),
                outcome: Err("cannot_connect".to_owned()),
            }],
            elapsed: ms(10),
            interrupted: true,
        };
        let load = Load {
            arrivals: Arrivals::Closed(1),
            until: Until::Elapsed(ms(10)),
            seed: 0,
        };
        let report = Report::of("m", load, &finished);
        assert_eq!((report.answered, report.latency_ms), (0, None));
        assert!(report.text().contains("1: cannot_connect 1"));
    }
}
