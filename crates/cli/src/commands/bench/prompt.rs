//! Prompts of a known length, no two alike: a prefix cache must not answer for the model.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::args::bench::{BenchArgs, Endpoint};

/// Words that are one token, or nearly, for most tokenizers.
const WORDS: [&str; 64] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week",
    "company", "system", "program", "question", "work", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job",
    "word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power",
    "hour", "game", "line", "end", "member", "law", "car",
];

/// The prompt of request `number`, the same for the same seed.
pub(super) fn prompt(seed: u64, number: u64, words: u32) -> String {
    let mut random = StdRng::seed_from_u64(seed.rotate_left(32) ^ number);
    let picked = (0..words).map(|_| WORDS[random.random_range(0..WORDS.len())]);
    picked.collect::<Vec<_>>().join(" ")
}

/// The body of request `number`.
pub(super) fn body(args: &BenchArgs, number: u64) -> Value {
    let prompt = prompt(args.seed, number, args.prompt_tokens);
    let mut body = json!({
        "model": args.model,
        "max_tokens": args.max_tokens,
        "temperature": 0,
        "stream": args.stream,
    });
    match args.endpoint {
        Endpoint::Chat => body["messages"] = json!([{"role": "user", "content": prompt}]),
        Endpoint::Completions => body["prompt"] = json!(prompt),
    }
    if args.stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    if args.ignore_eos {
        body["ignore_eos"] = json!(true);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_the_same_for_its_seed_and_number_only() {
        let first = prompt(0, 1, 20);
        assert_eq!(first, prompt(0, 1, 20));
        assert_eq!(first.split(' ').count(), 20);
        assert_ne!(first, prompt(0, 2, 20));
        assert_ne!(first, prompt(1, 1, 20));
    }
}
