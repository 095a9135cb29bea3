//! What can be done for a job without tensors: hyperparameters, data, plan. It happens on a thread of its own, so that
//! the jobs that are being trained do not wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use tunesmith_dataset::Encoder;
use tunesmith_model::ModelConfig;
use tunesmith_types::error::ParameterError;
use tunesmith_types::hyperparameters::{Duration, Hyperparameters};

use crate::assignment::Assignment;
use crate::checkpoint;
use crate::commands::Message;
use crate::data::Data;
use crate::error::{TrainError, words_of};
use crate::plan::Plan;

/// What a preparation must know of the base model.
#[derive(Debug, Clone)]
pub struct BaseText {
    /// The folder with the tokenizer.
    pub folder: PathBuf,
    /// Rows of the embedding.
    pub vocabulary: i64,
    /// Longest sequence.
    pub longest: u32,
    /// Tokenizer and template once a job has needed them: reading those of a large vocabulary takes longer than reading
    /// the data of a small job.
    encoder: Arc<Mutex<Option<Encoder>>>,
}

impl BaseText {
    /// Of the model in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf, config: &ModelConfig) -> Self {
        Self {
            folder,
            vocabulary: config.vocab_size,
            longest: u32::try_from(config.max_positions).unwrap_or(u32::MAX),
            encoder: Arc::default(),
        }
    }

    /// The model's tokenizer and template, read once for all jobs; a job that comes meanwhile waits for them.
    ///
    /// # Errors
    /// A file that is missing or broken.
    pub fn encoder(&self) -> Result<Encoder, TrainError> {
        // Nothing is left half done in it, whoever panicked.
        let mut kept = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(encoder) => Ok(encoder.clone()),
            None => Ok(kept.insert(Encoder::load(&self.folder)?).clone()),
        }
    }
}

/// A job that only lacks its tensors.
#[derive(Debug)]
pub struct Prepared {
    /// What was given.
    pub assignment: Assignment,
    /// Its hyperparameters, every value decided.
    pub asked: Hyperparameters,
    /// Its examples.
    pub data: Data,
    /// Which of them each step takes.
    pub plan: Plan,
    /// Optimizer steps of the whole job.
    pub total_steps: u64,
    /// The checkpoint that it goes on from.
    pub resumed: Option<PathBuf>,
}

impl Prepared {
    /// Reads and checks all that `assignment` names.
    ///
    /// # Errors
    /// A hyperparameter is outside its bounds, the data cannot be trained on, there is no checkpoint to go on from, or
    /// one of an earlier run is in the way.
    pub fn new(assignment: Assignment, base: &BaseText) -> Result<Self, TrainError> {
        let hyperparameters = &assignment.spec.hyperparameters;
        let asked = match assignment.spec.eval {
            Some(_) => hyperparameters.resolve_with_evaluation_data(Some(base.longest))?,
            None => hyperparameters.resolve(Some(base.longest))?,
        };
        check_extras(&assignment, &asked)?;
        let checkpoints = assignment.checkpoints();
        let resumed = match &assignment.spec.resume {
            Some(path) => Some(checkpoint::find(path)?),
            None if checkpoint::list(&checkpoints)?.is_empty() => None,
            None => return Err(TrainError::CheckpointsExist { path: checkpoints }),
        };
        let data = Data::load(&assignment, &asked, base)?;
        check_selection(&asked, &data)?;
        let lengths = data.train.iter().map(|place| data.corpus.length(*place) as u32);
        let mut plan = Plan::new(
            assignment.extras.order(asked.seed),
            u64::from(asked.seed.get()),
            assignment.extras.length_buckets,
            asked.batch,
            lengths.collect(),
        );
        let total_steps = match asked.duration {
            Duration::MaxSteps(steps) => steps.get(),
            Duration::Epochs(epochs) => plan.steps_of(epochs.get()),
        };
        Ok(Self {
            assignment,
            asked,
            data,
            plan,
            total_steps,
            resumed,
        })
    }
}

/// A job whose data is being read.
#[derive(Debug)]
pub struct Loading {
    /// Of its preparation.
    pub number: u64,
    /// The job's name.
    pub id: String,
    /// The checkpoint that it is to go on from.
    pub resume: Option<PathBuf>,
    /// Whether it is to take no steps once it is ready.
    pub is_paused: bool,
}

/// The preparations of a process, each on a thread of its own. What comes out arrives as [`Message::Prepared`].
#[derive(Debug)]
pub struct Preparations {
    text: BaseText,
    messages: Sender<Message>,
    count: u64,
}

impl Preparations {
    /// None yet.
    #[must_use]
    pub fn new(text: BaseText, messages: Sender<Message>) -> Self {
        Self {
            text,
            messages,
            count: 0,
        }
    }

    /// Begins to prepare a job.
    pub fn start(&mut self, assignment: Assignment) -> Loading {
        self.count += 1;
        let loading = Loading {
            number: self.count,
            id: assignment.spec.id.clone(),
            resume: assignment.spec.resume.clone(),
            is_paused: false,
        };
        let (number, text, messages) = (loading.number, self.text.clone(), self.messages.clone());
        let tell = move |messages: &Sender<Message>, result| {
            let result = Box::new(result);
            // Nobody listens any more once the loop has ended.
            let _ = messages.send(Message::Prepared { number, result });
        };
        let prepare = move || {
            let guarded = AssertUnwindSafe(|| Prepared::new(assignment, &text));
            let result = catch_unwind(guarded);
            let result = result.unwrap_or_else(|panic| Err(TrainError::Internal(words_of(&*panic))));
            tell(&messages, result);
        };
        if let Err(error) = std::thread::Builder::new().name("data".to_owned()).spawn(prepare) {
            let error = TrainError::Internal(format!("there is no thread to read its data: {error}"));
            tell(&self.messages, Err(error));
        }
        loading
    }
}

fn check_extras(assignment: &Assignment, asked: &Hyperparameters) -> Result<(), TrainError> {
    let extras = &assignment.extras;
    if extras.length_buckets && extras.file_order {
        let message = "--length-buckets changes the order, so it does not go with --order file";
        return Err(TrainError::Arguments(message.to_owned()));
    }
    let longest = asked.max_seq_len.get() as usize;
    match extras.pack_text {
        Some(row) if row < 2 || row > longest => Err(TrainError::Arguments(format!(
            "--pack-text must be from 2 to --max-seq-len ({longest}); {row} was given"
        ))),
        _ => Ok(()),
    }
}

/// A best evaluation needs evaluations.
fn check_selection(asked: &Hyperparameters, data: &Data) -> Result<(), TrainError> {
    let field = match asked.early_stopping_patience {
        Some(_) => "early_stopping_patience",
        None if asked.load_best_model_at_end => "load_best_model_at_end",
        None => return Ok(()),
    };
    if !data.eval.is_empty() {
        return Ok(());
    }
    let message = format!(
        "`{field}` looks at evaluations, but there are no evaluation examples; give evaluation data, or an \
         `eval_fraction` above 0 and at least two examples."
    );
    Err(ParameterError::new(field, message).into())
}
