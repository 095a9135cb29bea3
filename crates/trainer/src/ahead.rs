//! The input of a job's next steps, made on a thread while the present step is computed.
//!
//! What a step takes is a pure function of its number, so it does not matter when it is made, and a resumed run makes the
//! same. Each job has a thread of its own: who joins or leaves a gang changes nothing in what is ready for the others, and
//! what was ready for a job goes with it. At most three steps are in memory: the present one, one that is ready, and one
//! that is being made.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

use tunesmith_dataset::corpus::CorpusError;

use crate::data::Data;
use crate::documents::Documents;
use crate::error::{TrainError, words_of};
use crate::plan::Plan;

/// Steps that are ready beside the present one.
const READY: usize = 1;

/// What a step takes.
#[derive(Debug)]
pub struct StepInput {
    /// Its index, from 0.
    pub step: u64,
    /// Its documents.
    pub documents: Documents,
    /// Passes over the data that are done after it, with a fraction.
    pub epochs_done: f64,
    /// Whether it is the last of a pass.
    pub ends_epoch: bool,
}

impl StepInput {
    /// Of step `step` of a job.
    ///
    /// # Errors
    /// The job's tokens are lost.
    pub fn gather(data: &Data, plan: &mut Plan, step: u64) -> Result<Self, CorpusError> {
        let members = plan.step(step).iter().map(|place| data.train[*place]);
        Ok(Self {
            documents: Documents::gather(&data.corpus, members)?,
            epochs_done: plan.epochs_done(step + 1),
            ends_epoch: plan.is_epoch_end(step + 1),
            step,
        })
    }
}

/// The steps of one job, in their order. Dropping it ends the thread.
#[derive(Debug)]
pub struct Ahead {
    present: Option<Arc<StepInput>>,
    ready: Option<Receiver<Result<StepInput, CorpusError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to make the inputs of `steps` with `make`, on a thread.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(
        steps: Range<u64>,
        mut make: impl FnMut(u64) -> Result<StepInput, CorpusError> + Send + 'static,
    ) -> Result<Self, TrainError> {
        let (sender, ready) = sync_channel(READY);
        let work = move || {
            for step in steps {
                let input = make(step);
                let is_last = input.is_err();
                // Nobody takes it any more once the job has ended.
                if sender.send(input).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = Builder::new().name("input".to_owned()).spawn(work);
        let thread =
            thread.map_err(|error| TrainError::Internal(format!("no thread for a job's input: {error}")))?;
        Ok(Self {
            present: None,
            ready: Some(ready),
            thread: Some(thread),
        })
    }

    /// The input of `step`: the one that was asked for last, or a later one.
    ///
    /// # Errors
    /// It could not be made.
    pub fn input(&mut self, step: u64) -> Result<Arc<StepInput>, TrainError> {
        loop {
            if let Some(present) = self.present.as_ref().filter(|input| input.step == step) {
                return Ok(Arc::clone(present));
            }
            let next = self.ready.as_ref().and_then(|ready| ready.recv().ok());
            match next {
                Some(input) => self.present = Some(Arc::new(input?)),
                None => return Err(self.why_it_ended(step)),
            }
        }
    }

    fn why_it_ended(&mut self, step: u64) -> TrainError {
        self.ready = None;
        let end = self.thread.take().map(JoinHandle::join);
        TrainError::Internal(match end {
            Some(Err(panic)) => words_of(&*panic),
            _ => format!("there is no input for step {step}"),
        })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Whoever waits to hand over an input hears that nobody will take it.
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // A panic concerns nobody once the job has ended.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::error::Error;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn empty(step: u64) -> StepInput {
        StepInput {
            step,
            documents: Documents::default(),
            epochs_done: 0.0,
            ends_epoch: false,
        }
    }

    #[test]
    fn steps_come_in_order_and_as_often_as_they_are_asked_for() {
        let mut ahead = Ahead::start(5..9, |step| Ok(empty(step))).unwrap();
        for step in [5, 5, 6, 8, 8] {
            assert_eq!(ahead.input(step).unwrap().step, step);
        }
        let error = ahead.input(9).unwrap_err();
        assert!(error.to_string().contains("no input for step 9"), "{error}");
    }

    #[test]
    fn an_error_reaches_the_step_that_it_is_about() {
        let make = |step| match step {
            0..2 => Ok(empty(step)),
            _ => Err(CorpusError::Lost {
                folder: "here".into(),
                source: io::Error::other("the disk is gone"),
            }),
        };
        let mut ahead = Ahead::start(0..9, make).unwrap();
        assert_eq!(ahead.input(1).unwrap().step, 1);
        let error = ahead.input(2).unwrap_err();
        assert_eq!(error.code(), "data_unreadable");
        let text = error.to_string();
        assert!(text.contains("read back from here: the disk is gone"), "{text}");
        assert!(error.source().is_some());
    }

    #[test]
    fn a_panic_is_an_error_of_its_step() {
        let make = |step| {
            assert!(step < 1, "step {step} is cursed");
            Ok(empty(step))
        };
        let mut ahead = Ahead::start(0..9, make).unwrap();
        assert_eq!(ahead.input(0).unwrap().step, 0);
        let error = ahead.input(1).unwrap_err();
        assert!(error.to_string().contains("step 1 is cursed"), "{error}");
    }

    #[test]
    fn the_thread_runs_little_ahead_and_ends_with_the_job() {
        let made = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&made);
        let mut ahead = Ahead::start(0..u64::MAX, move |step| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(empty(step))
        })
        .unwrap();
        for step in 0..100 {
            ahead.input(step).unwrap();
            let most = step + 1 + READY as u64 + 1;
            assert!(made.load(Ordering::SeqCst) <= most, "step {step}");
        }
        drop(ahead);
        assert_eq!(Arc::strong_count(&made), 1, "the thread holds nothing any more");
    }
}
