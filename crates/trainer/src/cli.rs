//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains LoRA adapters and whole models of Llama's shape.
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
    /// Make a model folder with random weights
    Init(InitArgs),
    /// Make a byte-level BPE tokenizer from JSONL data
    Tokenizer(TokenizerArgs),
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
    /// Adapter to begin with, in PEFT layout (its rank, alpha and layers are kept)
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
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// auto, cpu or cuda:N; auto takes the first CUDA device where there is one
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads of tensor work on the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Tokens in memory at once [default: by the model's size]
    #[arg(long, value_name = "TOKENS")]
    pub micro_batch_tokens: Option<usize>,
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

/// Hyperparameters of `train`.
#[derive(Debug, Clone, Args)]
pub struct Knobs {
    /// LoRA rank
    #[arg(long, default_value_t = 16)]
    pub rank: u32,
    /// LoRA alpha [default: twice the rank]
    #[arg(long)]
    pub alpha: Option<f64>,
    /// LoRA dropout
    #[arg(long, default_value_t = 0.0)]
    pub dropout: f64,
    /// Scale by alpha / sqrt(rank)
    #[arg(long)]
    pub rslora: bool,
    /// all-linear, or some of q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj
    #[arg(long, value_delimiter = ',', default_value = "all-linear")]
    pub targets: Vec<String>,
    /// Peak learning rate
    #[arg(long, default_value_t = 2e-4)]
    pub lr: f64,
    /// Course of the learning rate after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleName::Cosine)]
    pub schedule: ScheduleName,
    /// Share of the steps with a rising learning rate
    #[arg(long, default_value_t = 0.03)]
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f64,
    /// The gradient is scaled down to this norm; 0 turns clipping off
    #[arg(long, default_value_t = 1.0)]
    pub max_grad_norm: f64,
    /// Passes over the data
    #[arg(long, default_value_t = 3, conflicts_with = "max_steps")]
    pub epochs: u32,
    /// Optimizer steps, instead of epochs
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Examples of one optimizer step
    #[arg(long, default_value_t = 16)]
    pub batch_size: u32,
    /// Tokens of the longest example [default: 2048, or the base model's limit where that is less]
    #[arg(long)]
    pub max_seq_len: Option<u32>,
    /// What happens to longer examples
    #[arg(long, value_enum, default_value_t = OverLongName::Truncate)]
    pub over_long: OverLongName,
    /// Seed of adapter, order, dropout and held-out split
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
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

/// Training methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Supervised fine-tuning
    Sft,
}

/// `--schedule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    /// Stays at the peak
    Constant,
    /// Falls to zero in a line
    Linear,
    /// Falls to zero on half a cosine
    Cosine,
}

/// `--over-long`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverLongName {
    /// Keep the beginning
    Truncate,
    /// Leave the example out
    Drop,
    /// Refuse to train
    Fail,
}

/// `--order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OrderName {
    /// Anew in every epoch, by the seed
    Shuffled,
    /// As in the file
    File,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// By the device
    Auto,
    /// 32 bits
    Float32,
    /// 16 bits
    Bfloat16,
}

/// `--save-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaveDtype {
    /// 32 bits
    Float32,
    /// 16 bits
    Bfloat16,
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
