//! What a request changes in the logits before a token is picked: bias, allowed tokens, a least length, penalties.
//!
//! As in vLLM, presence and frequency look at generated tokens only and repetition at the prompt too; reported
//! log-probabilities are those of the model, before any of this.

use std::collections::{HashMap, HashSet};

/// The changes that a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitRules {
    /// Taken off every token that was generated.
    pub presence: f32,
    /// Taken off every token for each time that it was generated.
    pub frequency: f32,
    /// Divides the positive and multiplies the negative logits of tokens that were seen; 1 changes nothing.
    pub repetition: f32,
    /// Added to single tokens.
    pub bias: Vec<(u32, f32)>,
    /// The only tokens that may be picked; `None` is all.
    pub allowed: Option<Vec<u32>>,
    /// Tokens to generate before the sequence may end by a token.
    pub min_tokens: usize,
}

impl Default for LogitRules {
    fn default() -> Self {
        Self {
            presence: 0.0,
            frequency: 0.0,
            repetition: 1.0,
            bias: Vec::new(),
            allowed: None,
            min_tokens: 0,
        }
    }
}

/// The rules of one sequence with what it has seen so far.
#[derive(Debug)]
pub struct LogitAdjuster {
    rules: LogitRules,
    end_tokens: Vec<u32>,
    prompt: HashSet<u32>,
    counts: HashMap<u32, u16>,
    generated: usize,
}

impl LogitAdjuster {
    /// Rules for what follows `prompt`; `end_tokens` end the sequence.
    #[must_use]
    pub fn new(rules: LogitRules, prompt: &[u32], end_tokens: &[u32]) -> Self {
        let is_repetition = is_other(rules.repetition, 1.0);
        Self {
            prompt: if is_repetition {
                prompt.iter().copied().collect()
            } else {
                HashSet::new()
            },
            end_tokens: end_tokens.to_vec(),
            rules,
            counts: HashMap::new(),
            generated: 0,
        }
    }

    /// Whether the next logits stay as they are.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.has_penalties()
            && self.rules.bias.is_empty()
            && self.rules.allowed.is_none()
            && self.generated >= self.rules.min_tokens
    }

    fn has_penalties(&self) -> bool {
        is_other(self.rules.presence, 0.0)
            || is_other(self.rules.frequency, 0.0)
            || is_other(self.rules.repetition, 1.0)
    }

    /// Changes a row of logits `[vocabulary]`.
    pub fn apply(&self, logits: &mut [f32]) {
        if let Some(allowed) = &self.rules.allowed {
            let kept: Vec<(u32, f32)> = allowed
                .iter()
                .filter_map(|token| Some((*token, *logits.get(*token as usize)?)))
                .collect();
            logits.fill(f32::NEG_INFINITY);
            kept.into_iter()
                .for_each(|(token, logit)| logits[token as usize] = logit);
        }
        if self.generated < self.rules.min_tokens {
            change(logits, &self.end_tokens, |_| f32::NEG_INFINITY);
        }
        for (token, bias) in &self.rules.bias {
            change(logits, &[*token], |logit| logit + bias);
        }
        if self.has_penalties() {
            self.penalize(logits);
        }
    }

    fn penalize(&self, logits: &mut [f32]) {
        let LogitRules {
            presence,
            frequency,
            repetition,
            ..
        } = self.rules;
        let seen: HashSet<u32> = self.prompt.iter().chain(self.counts.keys()).copied().collect();
        for token in seen {
            change(logits, &[token], |logit| {
                if logit > 0.0 {
                    logit / repetition
                } else {
                    logit * repetition
                }
            });
        }
        for (token, count) in &self.counts {
            change(logits, &[*token], |logit| {
                logit - presence - frequency * f32::from(*count)
            });
        }
    }

    /// Counts a picked token.
    pub fn count(&mut self, token: u32) {
        self.generated += 1;
        if self.has_penalties() {
            let count = self.counts.entry(token).or_default();
            *count = count.saturating_add(1);
        }
    }
}

fn is_other(value: f32, neutral: f32) -> bool {
    (value - neutral).abs() > f32::EPSILON
}

fn change(logits: &mut [f32], tokens: &[u32], change: impl Fn(f32) -> f32) {
    for token in tokens {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = change(*logit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [2.0, -2.0, 1.0, 0.5];

    fn adjusted(rules: LogitRules, prompt: &[u32], generated: &[u32]) -> [f32; 4] {
        let mut adjuster = LogitAdjuster::new(rules, prompt, &[3]);
        generated.iter().for_each(|token| adjuster.count(*token));
        let mut logits = LOGITS;
        if !adjuster.is_idle() {
            adjuster.apply(&mut logits);
        }
        logits
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        assert_eq!(adjusted(LogitRules::default(), &[0], &[1]), LOGITS);
    }

    #[test]
    fn penalties_look_at_what_was_seen() {
        let presence = LogitRules {
            presence: 0.5,
            ..LogitRules::default()
        };
        assert_eq!(adjusted(presence, &[0], &[2, 2]), [2.0, -2.0, 0.5, 0.5]);
        let frequency = LogitRules {
            frequency: 0.5,
            ..LogitRules::default()
        };
        assert_eq!(adjusted(frequency, &[0], &[2, 2]), [2.0, -2.0, 0.0, 0.5]);
        let repetition = LogitRules {
            repetition: 2.0,
            ..LogitRules::default()
        };
        assert_eq!(adjusted(repetition, &[0, 1], &[2]), [1.0, -4.0, 0.5, 0.5]);
    }

    #[test]
    fn bias_and_allowed_tokens_and_a_least_length() {
        let bias = LogitRules {
            bias: vec![(1, 5.0), (99, 1.0)],
            ..LogitRules::default()
        };
        assert_eq!(adjusted(bias, &[], &[]), [2.0, 3.0, 1.0, 0.5]);
        let allowed = LogitRules {
            allowed: Some(vec![2, 99]),
            ..LogitRules::default()
        };
        let none = f32::NEG_INFINITY;
        assert_eq!(adjusted(allowed, &[], &[]), [none, none, 1.0, none]);
        let least = LogitRules {
            min_tokens: 2,
            ..LogitRules::default()
        };
        assert_eq!(adjusted(least.clone(), &[], &[0]), [2.0, -2.0, 1.0, none]);
        assert_eq!(adjusted(least, &[], &[0, 0]), LOGITS);
    }
}
