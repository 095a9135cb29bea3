//! What an adapter answered at the end of its training against what it answers on a replica.
//!
//! A replica computes in another number format, in other batches and with other kernels, so log-probabilities agree
//! within a tolerance only. Where the two best tokens are nearly as likely as each other, either may win, and what
//! follows is another text: from there on nothing can be compared. So an answer is compared up to the first such tie.

use tunesmith_types::probe::Probe;

use crate::replica::Continuation;

/// Difference of two log-probabilities that rounding explains.
const TOLERANCE: f64 = 0.1;
/// Part of it that grows with the log-probability: the rounding of unlikely tokens' scores is larger.
const RELATIVE_TOLERANCE: f64 = 0.05;

/// How an answer compares with the recorded one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Comparison {
    /// As recorded.
    Agrees,
    /// Not the recorded adapter's answer.
    Differs {
        /// The first token that differs, counted from 0.
        place: usize,
        /// Its recorded log-probability.
        recorded: f64,
        /// The replica's.
        measured: f64,
    },
    /// No tokens, or numbers that are none.
    Unusable,
}

/// Compares a replica's answer with the recorded one.
pub(crate) fn compare(probe: &Probe, answer: &Continuation) -> Comparison {
    let length = probe
        .completion
        .len()
        .min(probe.logprobs.len())
        .min(answer.logprobs.len());
    if length == 0 || answer.logprobs.iter().any(|value| !value.is_finite()) {
        return Comparison::Unusable;
    }
    for place in 0..length {
        let (recorded, measured) = (probe.logprobs[place], answer.logprobs[place]);
        let tolerance = TOLERANCE + RELATIVE_TOLERANCE * recorded.abs();
        let tie = answer
            .leads
            .get(place)
            .copied()
            .flatten()
            .is_some_and(|lead| lead.abs() <= tolerance);
        let id = answer.ids.as_ref().and_then(|ids| ids.get(place));
        let same_token = id.is_none_or(|id| *id == probe.completion[place]);
        // Of two tokens in a tie each is about as likely as the other, so the number is compared even there.
        if (measured - recorded).abs() > tolerance || !(same_token || tie) {
            return Comparison::Differs {
                place,
                recorded,
                measured,
            };
        }
        if tie {
            break;
        }
    }
    Comparison::Agrees
}

/// Whether the recorded numbers tell adapter and base apart. An adapter that was hardly trained answers as the base
/// does, and rightly so.
pub(crate) fn is_telling(probe: &Probe) -> bool {
    probe
        .logprobs
        .iter()
        .zip(&probe.base_logprobs)
        .any(|(with, without)| (with - without).abs() > 2.0 * (TOLERANCE + RELATIVE_TOLERANCE * with.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe {
            prompt: vec![1, 2],
            completion: vec![7, 8, 9],
            logprobs: vec![-0.5, -1.0, -0.2],
            base_logprobs: vec![-2.5, -1.0, -0.2],
        }
    }

    fn answer(ids: Option<[u32; 3]>, logprobs: [f64; 3], leads: [f64; 3]) -> Continuation {
        Continuation {
            tokens: vec![String::new(); 3],
            ids: ids.map(Vec::from),
            logprobs: logprobs.to_vec(),
            leads: leads.map(Some).to_vec(),
        }
    }

    #[test]
    fn rounding_agrees_and_other_answers_do_not() {
        let clear = [2.0; 3];
        let near = answer(Some([7, 8, 9]), [-0.56, -1.1, -0.25], clear);
        assert_eq!(compare(&probe(), &near), Comparison::Agrees);
        let other_token = answer(Some([7, 3, 9]), [-0.5, -1.0, -0.2], clear);
        assert!(matches!(
            compare(&probe(), &other_token),
            Comparison::Differs { place: 1, .. }
        ));
        for logprobs in [[-0.8, -1.0, -0.2], [-0.5, -1.0, -0.9]] {
            for ids in [None, Some([7, 8, 9])] {
                let far = answer(ids, logprobs, clear);
                assert!(
                    matches!(compare(&probe(), &far), Comparison::Differs { .. }),
                    "{far:?}"
                );
            }
        }
    }

    #[test]
    fn after_a_near_tie_nothing_is_compared() {
        let ties = [2.0, 0.03, 2.0];
        let flipped = answer(Some([7, 3, 4]), [-0.5, -0.97, -3.0], ties);
        assert_eq!(compare(&probe(), &flipped), Comparison::Agrees);
        assert_eq!(
            compare(&probe(), &answer(None, [-0.5, -0.97, -3.0], ties)),
            Comparison::Agrees
        );
        let no_tie = answer(Some([3, 8, 9]), [-0.5, -1.0, -0.2], [0.03, 2.0, 2.0]);
        assert_eq!(compare(&probe(), &no_tie), Comparison::Agrees);
        let wrong_number = answer(Some([3, 8, 9]), [-1.5, -1.0, -0.2], [0.03, 2.0, 2.0]);
        assert!(matches!(
            compare(&probe(), &wrong_number),
            Comparison::Differs { place: 0, .. }
        ));
    }

    #[test]
    fn answers_without_numbers_are_unusable() {
        assert_eq!(compare(&probe(), &Continuation::default()), Comparison::Unusable);
        let broken = answer(None, [-0.5, f64::NAN, -0.2], [2.0; 3]);
        assert_eq!(compare(&probe(), &broken), Comparison::Unusable);
    }

    #[test]
    fn an_adapter_that_was_hardly_trained_tells_nothing() {
        assert!(is_telling(&probe()));
        let untrained = Probe {
            base_logprobs: vec![-0.52, -1.0, -0.2],
            ..probe()
        };
        assert!(!is_telling(&untrained));
    }
}
