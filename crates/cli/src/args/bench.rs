//! `bench`

use clap::{Args, ValueEnum};

/// `bench`
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// A deployment, a base model, or any model name that the server knows.
    pub(crate) model: String,
    /// Any OpenAI-compatible server, with or without /v1 at the end [default: the API of this machine's login]. A stored
    /// key goes to its own server only; `TUNESMITH_API_KEY` goes to the server named here.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Which endpoint is asked.
    #[arg(long, value_enum, default_value_t = Endpoint::Chat)]
    pub(crate) endpoint: Endpoint,
    /// Requests at once: the next is sent when one is answered.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) concurrency: u16,
    /// Send R requests a second at random moments instead, however slow the answers are.
    #[arg(long, value_name = "R", conflicts_with = "concurrency", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Send this many requests.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,
    /// Send requests for this long [default: 10]. What is on its way then is still answered and counted.
    #[arg(long, value_name = "S", value_parser = positive)]
    pub(crate) seconds: Option<f64>,
    /// Words of a prompt, about a token each. No two prompts are the same.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) prompt_tokens: u32,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// Go on to the last of `--max-tokens` after the model has ended its answer, so that all answers are of one length
    /// (`ignore_eos`, of vLLM and of our engine).
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Ask for streams. Without one nobody knows when the first token came.
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub(crate) stream: bool,
    /// Seed of prompts and moments.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// An endpoint that generates text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Its path.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("give a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(words: &[&str]) -> Result<BenchArgs, clap::Error> {
        let line = Line::try_parse_from([&["bench", "support"], words].concat())?;
        Ok(line.bench)
    }

    #[test]
    fn it_streams_unless_told_not_to() {
        assert!(parse(&[]).unwrap().stream);
        assert!(parse(&["--stream"]).unwrap().stream);
        assert!(!parse(&["--stream=false"]).unwrap().stream);
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for words in [
            ["--requests", "3", "--seconds", "2"].as_slice(),
            &["--rate", "5", "--concurrency", "4"],
            &["--rate", "0"],
            &["--rate", "inf"],
            &["--seconds", "-1"],
            &["--requests", "0"],
            &["--max-tokens", "0"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert_eq!(
            parse(&["--rate", "2.5", "--requests", "3"]).unwrap().rate,
            Some(2.5)
        );
    }
}
