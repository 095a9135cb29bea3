//! Picks the next token from a row of logits.
//!
//! Sampling divides the logits by the temperature, keeps the `top_k` likeliest, then those with at least `min_p` of
//! the likeliest one's probability, then the smallest set whose mass reaches `top_p`, and inverts the cumulative
//! distribution at a uniform number. That number comes from a generator of the request's own, so a seed gives the
//! same text whatever else the engine is doing.

use std::cmp::Ordering;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::logits::LogitRules;

/// Temperatures below this are greedy: the division would overflow float32.
const GREEDY_BELOW: f32 = 1e-5;
/// Candidates that the first attempt at the nucleus sorts; each further attempt sorts eight times as many.
const FIRST_NUCLEUS: usize = 256;

/// How a request wants its tokens picked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Probability mass that is kept, in 0..=1.
    pub top_p: f32,
    /// How many of the likeliest tokens are kept; `None` keeps all.
    pub top_k: Option<usize>,
    /// Share of the likeliest token's probability that a token must have.
    pub min_p: f32,
    /// Start of the random numbers; `None` takes one from the operating system.
    pub seed: Option<u64>,
    /// What is changed in the logits first.
    pub rules: LogitRules,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            seed: None,
            rules: LogitRules::default(),
        }
    }
}

/// The model's answer was not a number, so no token can be picked from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model gave logits that are not numbers")]
pub struct NotANumber;

/// A token that may be picked, with its logit and later its weight.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    weight: f32,
}

/// The sampler of one request.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        let random = sampling
            .seed
            .map_or_else(ChaCha8Rng::from_os_rng, ChaCha8Rng::seed_from_u64);
        Self {
            sampling,
            random,
            candidates: Vec::new(),
        }
    }

    /// The next token, given its row of logits `[vocabulary]`.
    ///
    /// # Errors
    /// When the largest logit is not finite.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32, NotANumber> {
        let best = greedy(logits)?;
        if self.sampling.temperature < GREEDY_BELOW {
            return Ok(best.token);
        }
        self.weigh(logits, best.weight);
        self.keep_nucleus();
        Ok(self.draw().unwrap_or(best.token))
    }

    /// Fills `candidates` with `exp((logit - largest) / temperature)`, after top-k and min-p.
    fn weigh(&mut self, logits: &[f32], largest: f32) {
        let temperature = self.sampling.temperature;
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend((0..).zip(logits).map(|(token, logit)| Candidate {
            token,
            weight: *logit,
        }));
        if let Some(kept) = self.sampling.top_k.filter(|kept| *kept < candidates.len()) {
            candidates.select_nth_unstable_by(kept - 1, likelier_first);
            candidates.truncate(kept);
        }
        for candidate in candidates.iter_mut() {
            candidate.weight = ((candidate.weight - largest) / temperature).exp();
        }
        if self.sampling.min_p > 0.0 {
            let least = self.sampling.min_p;
            candidates.retain(|candidate| candidate.weight >= least);
        }
    }

    /// Cuts `candidates` down to the smallest set of the likeliest whose mass reaches `top_p`.
    fn keep_nucleus(&mut self) {
        let candidates = &mut self.candidates;
        if self.sampling.top_p >= 1.0 {
            return;
        }
        let wanted = f64::from(self.sampling.top_p) * mass(candidates);
        let mut sorted = FIRST_NUCLEUS.min(candidates.len());
        loop {
            if sorted < candidates.len() {
                candidates.select_nth_unstable_by(sorted, likelier_first);
            }
            candidates[..sorted].sort_unstable_by(likelier_first);
            let mut reached = 0.0;
            let end = candidates[..sorted].iter().position(|candidate| {
                reached += f64::from(candidate.weight);
                reached >= wanted
            });
            if let Some(last) = end {
                candidates.truncate(last + 1);
                return;
            }
            if sorted == candidates.len() {
                return;
            }
            sorted = (sorted * 8).min(candidates.len());
        }
    }

    /// Inverts the cumulative distribution. Rounding may let the walk run past the end; then the last one is it.
    fn draw(&mut self) -> Option<u32> {
        let mut left = self.random.random::<f64>() * mass(&self.candidates);
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        self.candidates
            .iter()
            .rev()
            .find(|candidate| candidate.weight > 0.0)
            .map(|candidate| candidate.token)
    }
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates
        .iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
}

/// A total order, so that equal logits give the same choice on every machine.
fn likelier_first(left: &Candidate, right: &Candidate) -> Ordering {
    right
        .weight
        .total_cmp(&left.weight)
        .then(left.token.cmp(&right.token))
}

/// The first of the largest logits.
fn greedy(logits: &[f32]) -> Result<Candidate, NotANumber> {
    let mut best = Candidate {
        token: 0,
        weight: f32::NEG_INFINITY,
    };
    for (token, logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return Err(NotANumber);
        }
        if *logit > best.weight {
            best = Candidate {
                token,
                weight: *logit,
            };
        }
    }
    if best.weight.is_finite() {
        Ok(best)
    } else {
        Err(NotANumber)
    }
}

/// Log-probabilities of one picked token, before temperature and the cuts.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the picked token.
    pub picked: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Those of `picked` and of the `count` likeliest tokens in a row of logits `[vocabulary]`.
    ///
    /// # Errors
    /// As [`Sampler::pick`].
    pub fn of(logits: &[f32], picked: u32, count: usize) -> Result<Self, NotANumber> {
        let largest = greedy(logits)?.weight;
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let log_sum = f64::from(largest) + sum.ln();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a log-probability needs no more than float32"
        )]
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut candidates: Vec<Candidate> = (0..)
            .zip(logits)
            .map(|(token, logit)| Candidate {
                token,
                weight: *logit,
            })
            .collect();
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, likelier_first);
            candidates.truncate(count);
        }
        candidates.sort_unstable_by(likelier_first);
        let top = candidates
            .iter()
            .map(|candidate| (candidate.token, logprob(candidate.weight)))
            .collect();
        Ok(Self {
            picked: logprob(logits[picked as usize]),
            top,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn draws(sampling: &Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling.clone());
        (0..count).map(|_| sampler.pick(logits).unwrap()).collect()
    }

    fn seeded(seed: u64) -> Sampling {
        Sampling {
            seed: Some(seed),
            ..Sampling::default()
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let sampling = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert_eq!(draws(&sampling, &[0.5, 2.0, 2.0, -1.0], 3), [1, 1, 1]);
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let logits: Vec<f32> = (0..50_u8).map(|index| f32::from(index % 7)).collect();
        assert_eq!(draws(&seeded(7), &logits, 40), draws(&seeded(7), &logits, 40));
        assert_ne!(draws(&seeded(7), &logits, 40), draws(&seeded(8), &logits, 40));
        let unseeded = Sampling::default();
        assert_ne!(draws(&unseeded, &logits, 40), draws(&unseeded, &logits, 40));
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Probabilities 0.5, 0.25, 0.25: with 4000 draws the share of the first has a deviation below 0.008.
        let logits = [0.0, -(2.0_f32.ln()), -(2.0_f32.ln())];
        let first = draws(&seeded(1), &logits, 4000)
            .iter()
            .filter(|token| **token == 0)
            .count();
        assert!((1840..=2160).contains(&first), "{first}");
    }

    #[test]
    fn top_k_and_top_p_and_min_p_cut() {
        // Probabilities 0.5, 0.3, 0.15, 0.05, in another order.
        let logits: Vec<f32> = [0.15_f32, 0.5, 0.05, 0.3]
            .iter()
            .map(|share| share.ln())
            .collect();
        let seen = |sampling: &Sampling| {
            let mut tokens = draws(sampling, &logits, 400);
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        let all = seeded(3);
        let top_k = |kept| Sampling {
            top_k: Some(kept),
            ..seeded(3)
        };
        let top_p = |share| Sampling {
            top_p: share,
            ..seeded(3)
        };
        let min_p = |share| Sampling {
            min_p: share,
            ..seeded(3)
        };
        assert_eq!(seen(&all), [0, 1, 2, 3]);
        assert_eq!(seen(&top_k(2)), [1, 3]);
        assert_eq!(seen(&top_k(1)), [1]);
        assert_eq!(seen(&top_p(0.79)), [1, 3]);
        assert_eq!(seen(&top_p(0.81)), [0, 1, 3]);
        assert_eq!(seen(&top_p(0.0)), [1]);
        assert_eq!(seen(&min_p(0.2)), [0, 1, 3]);
    }

    #[test]
    fn a_wide_nucleus_is_found_past_the_first_attempt() {
        let logits = vec![0.0_f32; 5000];
        let sampling = Sampling {
            top_p: 0.5,
            ..seeded(5)
        };
        let mut sampler = Sampler::new(sampling);
        sampler.pick(&logits).unwrap();
        assert_eq!(sampler.candidates.len(), 2500);
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        for logits in [[0.0, f32::NAN], [f32::NEG_INFINITY; 2], [0.0, f32::INFINITY]] {
            assert_eq!(Sampler::new(Sampling::default()).pick(&logits), Err(NotANumber));
            assert_eq!(Logprobs::of(&logits, 0, 1), Err(NotANumber));
        }
    }

    #[test]
    fn logprobs_sum_to_one() {
        let logprobs = Logprobs::of(&[1.0, 3.0, 2.0], 2, 3).unwrap();
        assert_eq!(
            logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
            [1, 2, 0]
        );
        let total: f32 = logprobs.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        assert!((logprobs.picked - logprobs.top[1].1).abs() < 1e-9);
        assert!(Logprobs::of(&[1.0, 3.0], 0, 0).unwrap().top.is_empty());
    }
}
