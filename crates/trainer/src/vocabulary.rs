//! `tokenizer`: learns a byte-level BPE vocabulary from JSONL data.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};
use tunesmith_dataset::Example;

use crate::cli::TokenizerArgs;
use crate::error::TrainError;
use crate::files::write_into;

/// Ids 0, 1 and 2.
pub const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// ChatML, with what the model writes marked for the loss.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

/// Learns the vocabulary and writes tokenizer.json, tokenizer_config.json and chat_template.jinja.
///
/// # Errors
/// A file cannot be read or written, a line breaks the rules, or the vocabulary is too small for the 256 bytes.
pub fn make_tokenizer(args: &TokenizerArgs) -> Result<(), TrainError> {
    let least = 256 + SPECIAL_TOKENS.len();
    if args.vocab_size < least {
        let message = format!("--vocab-size must be at least {least}");
        return Err(TrainError::Arguments(message));
    }
    let mut tokenizer = empty_tokenizer();
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .vocab_size(args.vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );
    let mut texts = Texts::default();
    for path in &args.data {
        texts.open(path)?;
    }
    tokenizer
        .train(&mut trainer, &mut texts)
        .map_err(|error| TrainError::Vocabulary(error.to_string()))?;
    if let Some(error) = texts.failed {
        return Err(error);
    }
    write_into(&args.out, |folder| {
        let path = folder.join("tokenizer.json");
        tokenizer
            .save(&path, true)
            .map_err(|error| TrainError::Vocabulary(error.to_string()))?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": null,
            "eos_token": SPECIAL_TOKENS[2],
            "pad_token": SPECIAL_TOKENS[0],
            "unk_token": null,
            "clean_up_tokenization_spaces": false,
            "chat_template": CHAT_TEMPLATE,
        });
        write(&folder.join("tokenizer_config.json"), &format!("{config:#}\n"))?;
        write(&folder.join("chat_template.jinja"), CHAT_TEMPLATE)
    })
}

/// Words as GPT-2 splits them, each digit by itself, bytes as letters.
fn empty_tokenizer() -> Tokenizer {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer
}

/// The texts of JSONL files, one line in memory at a time.
#[derive(Debug, Default)]
struct Texts {
    readers: Vec<BufReader<File>>,
    pending: Vec<String>,
    line: Vec<u8>,
    lines: u64,
    failed: Option<TrainError>,
}

impl Texts {
    fn open(&mut self, path: &Path) -> Result<(), TrainError> {
        let file = File::open(path).map_err(|source| TrainError::DataUnreadable {
            path: path.to_path_buf(),
            source,
        })?;
        // Read from the back, so the first file goes last.
        self.readers.insert(0, BufReader::with_capacity(1 << 20, file));
        Ok(())
    }
}

impl Iterator for &mut Texts {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.pending.pop() {
                return Some(text);
            }
            let reader = self.readers.last_mut()?;
            self.line.clear();
            let count = reader.read_until(b'\n', &mut self.line).unwrap_or(0);
            if count == 0 {
                self.readers.pop();
                continue;
            }
            self.lines += 1;
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            match Example::parse(&self.line) {
                Ok(example) => self.pending = texts_of(example),
                Err(problems) => {
                    let message = problems.into_iter().next().map(|problem| problem.message);
                    let message = format!("line {}: {}", self.lines, message.unwrap_or_default());
                    self.failed = Some(TrainError::Vocabulary(message));
                    return None;
                }
            }
        }
    }
}

fn texts_of(example: Example) -> Vec<String> {
    match example {
        Example::Chat { messages, .. } => messages.into_iter().map(|message| message.content).collect(),
        Example::Completion { prompt, completion } => vec![prompt, completion],
        Example::Text { text } => vec![text],
    }
}

fn write(path: &Path, text: &str) -> Result<(), TrainError> {
    fs::write(path, text).map_err(TrainError::output(path))
}
