//! The engine: one thread that owns the model and makes every call into LibTorch, and the handle by which the HTTP
//! side speaks to it.
//!
//! ```text
//! Engine::submit ──Job──▶ scheduler: admit ─▶ step (all sequences, one forward pass) ─▶ pick ─▶ text ──Event──▶ HTTP
//! ```
//!
//! A job takes a place (a permit) when it is submitted and gives it back when it ends, so the queue is bounded at the
//! door and the channel to the thread never fills.

mod loading;
mod memory;
mod merging;
mod scheduler;
mod sequence;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
};

use tch::{Device, Kind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tunesmith_dataset::{ChatTemplate, TextTokenizer, template::TemplateError, tokenizer::TokenizerError};
use tunesmith_model::{Adapter, CausalLm, KvCache, ModelConfig, ModelError, Precision};

use crate::{
    adapter::AdapterLease,
    clock::unix_seconds,
    constraint::{ConstraintError, GrammarCompiler},
    generation::{Event, Generation, Job},
    metrics::Metrics,
    registry::AdapterRegistry,
};
pub use memory::KvBudget;
use scheduler::Scheduler;

/// Commands besides jobs that may be on their way at once.
const SPARE_COMMANDS: usize = 64;

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The base model's folder.
    pub base: PathBuf,
    /// Its name in requests.
    pub name: String,
    /// Where it runs.
    pub device: Device,
    /// Its number format.
    pub kind: Kind,
    /// Longest sequence, prompt and completion together; `None` is what the model was made for.
    pub max_context: Option<usize>,
    /// Most sequences in one forward pass.
    pub max_sequences: usize,
    /// Most sequences that wait.
    pub max_waiting: usize,
    /// Most adapters at once.
    pub max_adapters: usize,
    /// Most bytes of the tensors of adapters that nobody runs on; the least recently used beyond it are evicted.
    pub adapter_cache_bytes: usize,
    /// Where adapters may be loaded from at run time; `None` is anywhere.
    pub adapter_root: Option<PathBuf>,
    /// Most bytes of keys and values.
    pub kv_cache_bytes: usize,
    /// Most bytes of base weights with an adapter folded in.
    pub merged_bytes: usize,
    /// Whether steps on a GPU may be recorded as CUDA graphs.
    pub has_cuda_graphs: bool,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The base model.
    #[error("the base model cannot be loaded")]
    Model(#[from] ModelError),
    /// Its tokenizer.
    #[error("the base model's tokenizer cannot be loaded")]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template, which is there but broken.
    #[error("the base model's chat template cannot be loaded")]
    Template(#[from] TemplateError),
    /// The thread.
    #[error("the engine's thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// The thread ended without a word.
    #[error("the engine's thread died while it loaded the base model")]
    Died,
}

/// Why a generation is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// All places are taken.
    #[error("the queue is full")]
    QueueFull,
    /// The thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// What the thread is told.
enum Command {
    /// Generate.
    Generate(Box<Job>),
    /// Keep these tensors for as long as somebody holds the lease.
    Keep(Arc<AdapterLease>, Box<Adapter>, oneshot::Sender<()>),
    /// A lease was given back: drop the tensors that nobody needs any more.
    Collect,
}

/// The handle. All requests share one.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    config: ModelConfig,
    max_context: usize,
    budget: KvBudget,
    started_at: i64,
    tokenizer: Arc<TextTokenizer>,
    template: Option<ChatTemplate>,
    grammars: OnceLock<Result<GrammarCompiler, ConstraintError>>,
    adapters: Arc<AdapterRegistry>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Generate(_) => "Generate",
            Self::Keep(..) => "Keep",
            Self::Collect => "Collect",
        })
    }
}

impl Engine {
    /// Loads the base model on a thread of its own. The thread ends when the handle is dropped and all jobs are done.
    ///
    /// # Errors
    /// The base model, its tokenizer or its template cannot be loaded.
    pub async fn start(settings: EngineSettings) -> Result<(Arc<Self>, JoinHandle<()>), StartError> {
        let tokenizer = Arc::new(TextTokenizer::load(&settings.base)?);
        let template = load_template(&settings.base, &tokenizer)?;
        let metrics = Arc::new(Metrics::default());
        let adapters = Arc::new(AdapterRegistry::new(
            &settings.name,
            settings.max_adapters,
            settings.adapter_cache_bytes,
        ));
        let places = settings.max_sequences + settings.max_waiting;
        let (commands, inbox) = mpsc::channel(places + SPARE_COMMANDS);
        let (loaded, outcome) = oneshot::channel();
        let run = {
            let (settings, tokenizer) = (settings.clone(), Arc::clone(&tokenizer));
            let (metrics, adapters) = (Arc::clone(&metrics), Arc::clone(&adapters));
            move || {
                let precision = Precision::uniform(settings.kind);
                match CausalLm::load(&settings.base, settings.device, precision) {
                    Ok(model) => {
                        let config = model.config().clone();
                        let budget = budget(&settings, &config);
                        let mut scheduler =
                            Scheduler::new(model, tokenizer, metrics, adapters, budget, &settings);
                        scheduler.record_ahead();
                        let _ = loaded.send(Ok(config));
                        scheduler.run(inbox);
                    }
                    Err(error) => drop(loaded.send(Err(error))),
                }
            }
        };
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(run).map_err(StartError::Thread)?;
        let config = outcome.await.map_err(|_| StartError::Died)??;
        let longest = usize::try_from(config.max_positions).unwrap_or(usize::MAX);
        let engine = Self {
            adapters,
            budget: budget(&settings, &config),
            max_context: settings.max_context.unwrap_or(longest).min(longest),
            started_at: unix_seconds(),
            places: Arc::new(Semaphore::new(places)),
            settings,
            config,
            tokenizer,
            template,
            grammars: OnceLock::new(),
            metrics,
            commands,
        };
        Ok((Arc::new(engine), thread))
    }

    /// The base model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The base model's folder.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.settings.base
    }

    /// Longest sequence, in tokens.
    #[must_use]
    pub fn max_context(&self) -> usize {
        self.max_context
    }

    /// What keys and values may take.
    #[must_use]
    pub fn kv_budget(&self) -> KvBudget {
        self.budget
    }

    /// Number of token ids that the model knows.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        u32::try_from(self.config.vocab_size).unwrap_or(u32::MAX)
    }

    /// Unix seconds.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        self.started_at
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The model's chat template, if it has one.
    #[must_use]
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Compiles what outputs must follow. The first call reads the tokenizer's vocabulary, which may take a second.
    ///
    /// # Errors
    /// The tokenizer does not say which bytes its tokens are.
    pub fn grammars(&self) -> Result<&GrammarCompiler, ConstraintError> {
        let load = || {
            let end_tokens = &self.tokenizer.special().eos_ids;
            GrammarCompiler::load(&self.settings.base, self.vocabulary(), end_tokens)
        };
        self.grammars.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    /// The adapters that can be named.
    #[must_use]
    pub fn adapters(&self) -> &AdapterRegistry {
        &self.adapters
    }

    /// What was counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the engine's thread is there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Hands a generation to the thread; its events come out of the receiver. Dropping the receiver cancels it.
    ///
    /// # Errors
    /// The queue is full, or the thread is gone.
    pub fn submit(&self, generation: Generation) -> Result<mpsc::Receiver<Event>, SubmitError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| SubmitError::QueueFull)?;
        // Room for every event that there can be, so that a slow reader never holds up the others.
        let (events, receiver) = mpsc::channel(generation.max_tokens + 2);
        let job = Job {
            generation,
            events,
            place,
        };
        match self.commands.try_send(Command::Generate(Box::new(job))) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SubmitError::QueueFull),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SubmitError::Stopped),
        }
    }
}

fn budget(settings: &EngineSettings, config: &ModelConfig) -> KvBudget {
    KvBudget {
        bytes: settings.kv_cache_bytes,
        bytes_per_token: KvCache::bytes_per_token(config, settings.kind),
    }
}

/// A base model may come without a chat template; then it answers completions only.
fn load_template(base: &Path, tokenizer: &TextTokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
    let special = tokenizer.special();
    match ChatTemplate::load(base, special.bos.as_deref(), special.eos.as_deref()) {
        Ok(template) => Ok(Some(template)),
        Err(TemplateError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}
