//! The task metrics of `examples/README.md`, each a number from 0 to 1 over a whole held-out file.

use std::{collections::HashSet, fmt, str::FromStr};

/// How answers are compared with references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Share of answers whose first line is the reference's.
    FirstLine,
    /// Mean share of the required phrases that an answer contains.
    Phrases,
    /// As [`Self::Phrases`], but an answer with another first line scores 0.
    LabelAndPhrases,
    /// Micro F1 of `key: value` lines.
    FieldF1,
}

impl Metric {
    /// All, with their names.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::FirstLine, "first_line"),
        (Self::Phrases, "phrases"),
        (Self::LabelAndPhrases, "label_and_phrases"),
        (Self::FieldF1, "field_f1"),
    ];

    /// The metric over all items.
    pub(crate) fn score(self, items: &[Item]) -> f64 {
        match self {
            Self::FirstLine => mean(items, |item| f64::from(u8::from(same_first_line(item)))),
            Self::Phrases => mean(items, phrase_share),
            Self::LabelAndPhrases => mean(items, |item| {
                if same_first_line(item) {
                    phrase_share(item)
                } else {
                    0.0
                }
            }),
            Self::FieldF1 => field_f1(items),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(metric, _)| metric == self)
            .map(|(_, name)| *name);
        formatter.pad(name.expect("invariant: every metric is in the list"))
    }
}

/// A text that names no metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a metric; choose first_line, phrases, label_and_phrases or field_f1")]
pub(crate) struct UnknownMetric(String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known
            .map(|(metric, _)| *metric)
            .ok_or_else(|| UnknownMetric(text.to_owned()))
    }
}

/// A held-out example with the model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) answer: String,
    pub(crate) reference: String,
    /// Phrases that a good answer contains.
    pub(crate) require: Vec<String>,
}

fn mean(items: &[Item], score: impl Fn(&Item) -> f64) -> f64 {
    if items.is_empty() {
        return 0.0;
    }
    items.iter().map(score).sum::<f64>() / items.len() as f64
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Non-empty lines in normal form.
fn lines(text: &str) -> Vec<String> {
    text.split('\n')
        .map(normal)
        .filter(|line| !line.is_empty())
        .collect()
}

fn same_first_line(item: &Item) -> bool {
    let (answer, reference) = (lines(&item.answer), lines(&item.reference));
    answer
        .first()
        .is_some_and(|first| Some(first) == reference.first())
}

fn phrase_share(item: &Item) -> f64 {
    if item.require.is_empty() {
        return 1.0;
    }
    let answer = lines(&item.answer).join(" ");
    let found = item
        .require
        .iter()
        .filter(|phrase| answer.contains(&lines(phrase).join(" ")))
        .count();
    found as f64 / item.require.len() as f64
}

fn fields(text: &str) -> HashSet<(String, String)> {
    text.split('\n')
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (normal(key), normal(value)))
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .collect()
}

fn field_f1(items: &[Item]) -> f64 {
    let (mut hits, mut total) = (0, 0);
    for item in items {
        let (given, wanted) = (fields(&item.answer), fields(&item.reference));
        hits += given.intersection(&wanted).count();
        total += given.len() + wanted.len();
    }
    if hits == 0 {
        0.0
    } else {
        2.0 * hits as f64 / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, reference: &str, require: &[&str], answer: &str) -> f64 {
        let require = require.iter().map(|phrase| (*phrase).to_owned()).collect();
        metric.score(&[Item {
            answer: answer.to_owned(),
            reference: reference.to_owned(),
            require,
        }])
    }

    /// The tables of `examples/README.md`.
    #[test]
    fn the_documented_cases_hold() {
        let code = "N39.0 Urinary tract infection, site not specified";
        let long = "\nN39.0  Urinary tract infection, site not specified\nSee also N30";
        assert_eq!(score(Metric::FirstLine, code, &[], long), 1.0);
        assert_eq!(score(Metric::FirstLine, code, &[], "N39.0"), 0.0);
        assert_eq!(score(Metric::FirstLine, code, &[], ""), 0.0);

        let require = ["Meet Alba,", "Yours for 49 EUR."];
        assert_eq!(
            score(
                Metric::Phrases,
                "",
                &require,
                "Meet Alba, a lamp.\nYours for\n49 EUR."
            ),
            1.0
        );
        assert_eq!(
            score(
                Metric::Phrases,
                "",
                &require,
                "Meet Alba, a lamp. It costs 49 EUR."
            ),
            0.5
        );

        let require = ["Dear Ana Petrov,", "kettle"];
        let refund = "Decision: refund";
        let toaster = "Decision: refund\nDear Ana Petrov, about the toaster";
        let repair = "Decision: repair\nDear Ana Petrov, your kettle";
        assert_eq!(score(Metric::LabelAndPhrases, refund, &require, toaster), 0.5);
        assert_eq!(score(Metric::LabelAndPhrases, refund, &require, repair), 0.0);

        let wanted = "type: rent\nparty: Oak Ltd\nterm: none\namount: USD 900";
        let given = "type: rent\nparty: Oak Ltd\nterm: 3 years";
        assert!((score(Metric::FieldF1, wanted, &[], given) - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(score(Metric::FieldF1, wanted, &[], "I am not sure."), 0.0);
        assert_eq!(score(Metric::FieldF1, wanted, &[], wanted), 1.0);
    }
}
