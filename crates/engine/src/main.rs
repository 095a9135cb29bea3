//! The executable: command line to settings.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tch::{Device, Kind};
use tunesmith_engine::{
    engine::EngineSettings,
    serve::{ServeSettings, serve},
};

/// Inference for a base model and its LoRA adapters, in vLLM's protocol.
#[derive(Debug, Parser)]
#[command(name = "tunesmith-engine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a base model over HTTP.
    Serve(Box<ServeArguments>),
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Folder of the base model, in Hugging Face's layout.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Where to listen; port 0 picks a free one. The port must not be open to users: it can be told to open paths.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// The base model's name in requests [default: the folder's name].
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// An adapter to load at the start.
    #[arg(long = "adapter", value_name = "NAME=DIR", value_parser = named_folder)]
    adapters: Vec<(String, PathBuf)>,
    /// Most adapters at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_adapters: usize,
    /// Most bytes of adapters in memory; those beyond it that were used longest ago are read back when they are asked
    /// for [default: a sixth of the free memory].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    adapter_cache_bytes: Option<u64>,
    /// Folder under which adapters loaded at run time must lie [default: anywhere].
    #[arg(long, value_name = "DIR")]
    adapter_root: Option<PathBuf>,
    /// Longest sequence in tokens, prompt and completion together [default: the model's own].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    max_model_len: Option<u32>,
    /// Most sequences that are generated at the same time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_sequences: u16,
    /// Most sequences that wait; more are answered 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_waiting: u16,
    /// Most bytes of keys and values of all sequences [default: a third of the free memory].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    kv_cache_bytes: Option<u64>,
    /// Most bytes of a copy of the weights with one adapter folded in, which is made when that adapter has all the traffic
    /// for a while; 0 makes none [default: an eighth of the free memory; on a GPU 0, since its steps are graphs].
    #[arg(long, value_name = "BYTES")]
    merged_bytes: Option<u64>,
    /// Launch every kernel of a step on a GPU by itself, also where a CUDA graph would do.
    #[arg(long)]
    no_cuda_graphs: bool,
    /// auto, cpu, or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Number format of weights and products; auto is bfloat16 on a GPU and float32 on a CPU.
    #[arg(long, default_value = "auto")]
    dtype: Dtype,
    /// Threads for tensor operations [default: LibTorch's choice, the physical cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// How long running requests may go on after SIGTERM or SIGINT.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_seconds: u32,
    /// End when standard input ends, so that this process never outlives the one that started it.
    #[arg(long)]
    supervised: bool,
    /// File to write `{"url","pid"}` to once requests are answered.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    Auto,
    Float32,
    Bfloat16,
}

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), folder.into()))
        }
        _ => Err("write it as NAME=DIR".to_owned()),
    }
}

fn main() -> ExitCode {
    let Command::Serve(arguments) = Cli::parse().command;
    tunesmith_torch_ext::wait_politely(&[]);
    // LibTorch looks for its CUDA half once, at the first call into it.
    let cuda = tunesmith_torch_ext::load_cuda();
    start_logs();
    tracing::debug!(%cuda, "libtorch");
    match run(*arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TUNESMITH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .init();
}

fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    if let Some(threads) = arguments.threads {
        tch::set_num_threads(threads.into());
    }
    serve(&settings(arguments)?)
}

fn settings(arguments: ServeArguments) -> anyhow::Result<ServeSettings> {
    let base = arguments.base.canonicalize();
    let base = base.with_context(|| format!("cannot open the base model {}", arguments.base.display()))?;
    let folder_name = || base.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = arguments
        .model_name
        .or_else(folder_name)
        .unwrap_or_else(|| "base".to_owned());
    let device = device(&arguments.device)?;
    let kind = match arguments.dtype {
        Dtype::Auto if device != Device::Cpu => Kind::BFloat16,
        Dtype::Bfloat16 => Kind::BFloat16,
        Dtype::Auto | Dtype::Float32 => Kind::Float,
    };
    Ok(ServeSettings {
        engine: EngineSettings {
            base,
            name,
            device,
            kind,
            max_context: arguments.max_model_len.map(|tokens| tokens as usize),
            max_sequences: arguments.max_sequences.into(),
            max_waiting: arguments.max_waiting.into(),
            max_adapters: arguments.max_adapters,
            adapter_cache_bytes: bytes_or_share(arguments.adapter_cache_bytes, device, 6),
            adapter_root: arguments.adapter_root,
            kv_cache_bytes: bytes_or_share(arguments.kv_cache_bytes, device, 3),
            merged_bytes: match arguments.merged_bytes {
                None if device.is_cuda() => 0,
                asked => bytes_or_share(asked, device, 8),
            },
            has_cuda_graphs: !arguments.no_cuda_graphs,
        },
        listen: arguments.listen,
        adapters: arguments.adapters,
        drain: Duration::from_secs(arguments.drain_seconds.into()),
        supervised: arguments.supervised,
        ready_file: arguments.ready_file,
    })
}

/// Where nobody says how much memory is free.
const FALLBACK_FREE_BYTES: usize = 6 << 30;

/// What was asked for, or that part of the device's free memory; the weights and the products take from the rest.
fn bytes_or_share(asked: Option<u64>, device: Device, part: usize) -> usize {
    if let Some(bytes) = asked {
        return usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    let free = match device {
        Device::Cpu => free_memory(),
        device => tunesmith_torch_ext::device_memory(device)
            .ok()
            .and_then(|(free, _)| usize::try_from(free).ok()),
    };
    free.unwrap_or(FALLBACK_FREE_BYTES) / part
}

/// Bytes that Linux could give out now.
fn free_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

fn device(name: &str) -> anyhow::Result<Device> {
    let gpus = if tch::Cuda::is_available() {
        tch::Cuda::device_count()
    } else {
        0
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if gpus > 0 { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" if gpus > 0 => Ok(Device::Cuda(0)),
        name => {
            let number = name
                .strip_prefix("cuda:")
                .and_then(|number| number.parse::<usize>().ok());
            match number {
                Some(number) if i64::try_from(number).is_ok_and(|number| number < gpus) => {
                    Ok(Device::Cuda(number))
                }
                Some(_) => bail!("there is no device {name}: this machine has {gpus} usable GPUs"),
                None if name == "cuda" => bail!("there is no device cuda: this machine has no usable GPU"),
                None => bail!("`{name}` is no device; give auto, cpu or cuda:N"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn adapters_are_named_folders() {
        assert_eq!(named_folder("a=/b=c").unwrap(), ("a".to_owned(), "/b=c".into()));
        for text in ["a", "=b", "a="] {
            assert!(named_folder(text).is_err());
        }
    }

    #[test]
    fn devices_are_parsed() {
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:x", "cuda:99"] {
            assert!(device(name).is_err());
        }
    }
}
