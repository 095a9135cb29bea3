//! The command line.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tunesmith_types::hyperparameters::{OverLong, Schedule, TrainingDtype};

/// Trains LoRA adapters, several at once, and whole models.
#[derive(Debug, Parser)]
#[command(name = "tunesmith-trainer", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an adapter on a base model (or, with --full, the whole model)
    Train(Box<TrainArgs>),
    /// Train several adapters together over one copy of their base model
    Gang(GangArgs),
    /// Fold an adapter into its base model, prove it, and write a model folder
    Merge(MergeArgs),
    /// Make a model folder with random weights
    Init(InitArgs),
    /// Make a byte-level BPE tokenizer from JSONL data
    Tokenizer(TokenizerArgs),
}

/// `gang`.
#[derive(Debug, Clone, Args)]
pub struct GangArgs {
    /// JSON file with the base model and the jobs to begin with
    #[arg(value_name = "SPEC.json")]
    pub spec: PathBuf,
    /// Speak JSON lines on stdout, take commands on stdin (more jobs may join), end with stdin
    #[arg(long)]
    pub supervised: bool,
    /// The bound on activations; it wins over that in SPEC.json.
    #[command(flatten)]
    pub activations: ActivationBound,
}

/// How much memory the activations of a pass may take.
#[derive(Debug, Clone, Copy, Args)]
pub struct ActivationBound {
    /// Bytes for the activations of a pass; examples that need more are recomputed block by block, which takes a third
    /// longer and changes no result [default: 768 MiB on a CPU, three quarters of what is free on a GPU]
    #[arg(long, value_name = "BYTES", env = "TUNESMITH_ACTIVATION_BYTES")]
    pub activation_bytes: Option<NonZeroU64>,
}

/// `train`.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// Base model: a folder in Hugging Face layout
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Training data: JSONL with `messages`, or `prompt` and `completion`, or `text`
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Where the adapter (or model) folder is written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Evaluation data
    #[arg(long, value_name = "FILE", conflicts_with = "eval_fraction")]
    pub eval: Option<PathBuf>,
    /// Share of the training data that is held out for evaluation
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub eval_fraction: f64,
    /// Steps between evaluations; 0 evaluates only at the end [default: once per epoch]
    #[arg(long, value_name = "STEPS")]
    pub eval_every: Option<u64>,
    /// Adapter to begin with, in PEFT layout (its rank, alpha and modules are kept)
    #[arg(long, value_name = "DIR", conflicts_with = "full")]
    pub init_adapter: Option<PathBuf>,
    /// Checkpoint to go on from (or a folder of checkpoints: the latest)
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Name of the base model in adapter_config.json [default: the path given as --base]
    #[arg(long, value_name = "NAME")]
    pub base_name: Option<String>,
    /// Training method
    #[arg(long, value_enum, default_value_t = Method::Sft)]
    pub method: Method,
    /// Train all weights instead of an adapter
    #[arg(long)]
    pub full: bool,
    /// Number format of the weights that --full writes
    #[arg(long, value_enum, default_value_t = SaveDtype::Float32, requires = "full")]
    pub save_dtype: SaveDtype,
    /// The knobs.
    #[command(flatten)]
    pub knobs: Knobs,
    /// bfloat16 or float32; auto takes bfloat16 on CUDA and float32 on the CPU
    #[arg(long, default_value = "auto", value_parser = word::<TrainingDtype>(&["auto", "float32", "bfloat16"]))]
    pub dtype: TrainingDtype,
    /// auto, cpu or cuda:N; auto takes the first CUDA device where there is one
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads of tensor work on the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Tokens in memory at once [default: by the model's size]
    #[arg(long, value_name = "TOKENS")]
    pub micro_batch_tokens: Option<usize>,
    /// The bound on activations.
    #[command(flatten)]
    pub activations: ActivationBound,
    /// One JSON line per step is written here
    #[arg(long, value_name = "FILE")]
    pub steps_log: Option<PathBuf>,
    /// Optimizer steps between checkpoints; 0 writes one only at the end
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    pub checkpoint_every: u64,
    /// Where checkpoints go [default: OUT/checkpoints]
    #[arg(long, value_name = "DIR")]
    pub checkpoint_dir: Option<PathBuf>,
    /// Checkpoints that are kept; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep_checkpoints: usize,
    /// Speak JSON lines on stdout, take commands on stdin, end with stdin
    #[arg(long)]
    pub supervised: bool,
}

/// Hyperparameters of `train`; what is absent takes the default that jobs of the platform have.
#[derive(Debug, Clone, Args)]
pub struct Knobs {
    /// LoRA rank [default: 16]
    #[arg(long)]
    pub rank: Option<u32>,
    /// LoRA alpha [default: twice the rank]
    #[arg(long)]
    pub alpha: Option<f64>,
    /// LoRA dropout [default: 0]
    #[arg(long)]
    pub dropout: Option<f64>,
    /// Scale by alpha / sqrt(rank)
    #[arg(long)]
    pub rslora: bool,
    /// all-linear, names such as q_proj,v_proj,lm_head, or a regular expression on whole module names [default: all-linear]
    #[arg(long, value_name = "TARGETS")]
    pub targets: Option<String>,
    /// Ranks of single modules: q_proj=32,layers.0.mlp.down_proj=4, or a JSON object
    #[arg(long, value_name = "PATTERNS")]
    pub rank_pattern: Option<String>,
    /// Alphas of single modules, likewise
    #[arg(long, value_name = "PATTERNS")]
    pub alpha_pattern: Option<String>,
    /// Numbers of the blocks that get an adapter, from 0 [default: all]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub layers_to_transform: Option<Vec<u32>>,
    /// Peak learning rate [default: 2e-4]
    #[arg(long)]
    pub lr: Option<f64>,
    /// Learning rate of the B matrices over that of the A matrices, as in LoRA+ [default: 1]
    #[arg(long, value_name = "RATIO")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Course of the learning rate after the warm-up [default: cosine]
    #[arg(long, value_parser = word::<Schedule>(&["constant", "linear", "cosine", "warmup_stable_decay"]))]
    pub schedule: Option<Schedule>,
    /// Share of the steps with a rising learning rate [default: 0.03]
    #[arg(long)]
    pub warmup_ratio: Option<f64>,
    /// Share of the steps with a falling learning rate, under warmup_stable_decay [default: 0.1]
    #[arg(long)]
    pub decay_ratio: Option<f64>,
    /// AdamW's decoupled weight decay [default: 0]
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// The gradient is scaled down to this norm; 0 turns clipping off [default: 1]
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// Passes over the data [default: 3]
    #[arg(long, conflicts_with = "max_steps")]
    pub epochs: Option<u32>,
    /// Optimizer steps, instead of epochs
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Examples of one optimizer step [default: 16]
    #[arg(long, conflicts_with = "batch_tokens")]
    pub batch_size: Option<u32>,
    /// Tokens of one optimizer step, instead of a number of examples
    #[arg(long, value_name = "TOKENS")]
    pub batch_tokens: Option<u32>,
    /// Tokens of the longest example [default: 2048, or the base model's limit where that is less]
    #[arg(long)]
    pub max_seq_len: Option<u32>,
    /// What happens to longer examples [default: truncate]
    #[arg(long, value_parser = word::<OverLong>(&["truncate", "drop", "fail"]))]
    pub over_long: Option<OverLong>,
    /// Learn the whole conversation, not only what the assistant says
    #[arg(long)]
    pub train_on_inputs: bool,
    /// Evaluations without improvement after which the training stops
    #[arg(long, value_name = "N")]
    pub early_stopping_patience: Option<u32>,
    /// Least fall of the evaluation loss that counts as an improvement [default: 0]
    #[arg(long, value_name = "LOSS")]
    pub early_stopping_threshold: Option<f64>,
    /// Deliver the adapter of the evaluation with the least loss, not the last one
    #[arg(long)]
    pub load_best_model_at_end: bool,
    /// Seed of adapter, order, dropout and held-out split [default: 0]
    #[arg(long)]
    pub seed: Option<u32>,
    /// Order of the examples within an epoch
    #[arg(long, value_enum, default_value_t = OrderName::Shuffled)]
    pub order: OrderName,
    /// Join all examples and cut them into rows of exactly N tokens (pre-training on `text`); rows have one length, which
    /// is quick, and may hold parts of several examples
    #[arg(long, value_name = "N")]
    pub pack_text: Option<usize>,
    /// Put examples of similar length into the same step (quicker on a GPU; changes the order)
    #[arg(long)]
    pub length_buckets: bool,
}

/// One of `words`, which are those of `T` in JSON.
fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value::<T>(Value::String(word)))
}

/// Training methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Supervised fine-tuning
    Sft,
}

/// `--order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OrderName {
    /// Anew in every epoch, by the seed
    Shuffled,
    /// As in the file
    File,
}

/// `--save-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaveDtype {
    /// 32 bits
    Float32,
    /// 16 bits
    Bfloat16,
}

/// `merge`.
#[derive(Debug, Clone, Args)]
pub struct MergeArgs {
    /// Base model: a folder in Hugging Face layout
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Adapter, in PEFT layout
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Where the merged model folder is written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number format of the merged weights [default: the base model's]
    #[arg(long, value_enum)]
    pub dtype: Option<MergeDtype>,
    /// Bytes of one weights file at most
    #[arg(long, value_name = "BYTES", default_value_t = tunesmith_model::SHARD_BYTES)]
    pub max_shard_bytes: usize,
    /// Golden probes to compare on [default: probes.json of the adapter, if there is one]
    #[arg(long, value_name = "FILE")]
    pub probes: Option<PathBuf>,
    /// Threads of tensor work on the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
}

/// `merge --dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MergeDtype {
    /// 32 bits
    Float32,
    /// 16 bits, 11 of them precise
    Float16,
    /// 16 bits, 8 of them precise
    Bfloat16,
}

impl MergeDtype {
    /// LibTorch's name of it.
    #[must_use]
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::Float32 => tch::Kind::Float,
            Self::Float16 => tch::Kind::Half,
            Self::Bfloat16 => tch::Kind::BFloat16,
        }
    }
}

/// `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// config.json of the model
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// tokenizer.json of the model
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// Chat template (Jinja)
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
    /// Where the model folder is written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `tokenizer`.
#[derive(Debug, Clone, Args)]
pub struct TokenizerArgs {
    /// JSONL files to learn from
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Size of the vocabulary, special tokens included
    #[arg(long, value_name = "N")]
    pub vocab_size: usize,
    /// Where tokenizer.json and tokenizer_config.json are written
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
