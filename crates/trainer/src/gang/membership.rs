//! How jobs join a gang and leave it.

use tunesmith_types::trainer::StopReason;

use super::Gang;
use crate::assignment::Assignment;
use crate::error::TrainError;
use crate::job::Job;
use crate::preparation::{Loading, Prepared};
use crate::report::Reporter;

impl Gang<'_> {
    /// Begins to read a job's data, on a thread of its own.
    pub fn join(&mut self, assignment: Assignment) {
        if self.may_join(&assignment.spec.id) {
            let loading = self.preparations.start(assignment);
            self.loading.push(loading);
        }
    }

    /// Takes in a job whose data is being read already.
    pub fn expect(&mut self, loading: Loading) {
        if self.may_join(&loading.id) {
            self.loading.push(loading);
        }
    }

    /// Refuses a job that may not join.
    fn may_join(&mut self, id: &str) -> bool {
        let (job, reason) = if self.is_closed {
            (Some(id), "it came after `finish`, so it cannot join".to_owned())
        } else if self.has(id) {
            let reason = format!("a job `{id}` is already here, so no other can join under that id");
            (None, reason)
        } else if self.jobs.iter().any(|job| job.full().is_some()) {
            let reason = "a job that trains all weights is alone with its base model";
            (Some(id), reason.to_owned())
        } else {
            return true;
        };
        self.refuse(job, &reason);
        false
    }

    /// A preparation has ended; the job takes its first step in the next cycle.
    pub(super) fn begin(
        &mut self,
        number: u64,
        result: Result<Prepared, TrainError>,
    ) -> Result<(), TrainError> {
        let Some(place) = self.loading.iter().position(|loading| loading.number == number) else {
            // It was stopped in the meantime.
            return Ok(());
        };
        let loading = self.loading.remove(place);
        let reporter = Reporter::new(self.audience, Some(&loading.id));
        match result.and_then(|prepared| Job::begin(self.base, prepared, reporter)) {
            Ok(mut job) => {
                job.is_paused = loading.is_paused;
                self.jobs.push(job);
                self.tell_recomputation();
                self.deliver_if_done(self.jobs.len() - 1)
            }
            Err(error) => {
                self.failures += 1;
                Reporter::new(self.audience, Some(&loading.id)).failed(&error);
                if error.ends_the_process() {
                    Err(error)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Says, before the first step of the newest job, whether its examples do not fit into memory with everything kept.
    fn tell_recomputation(&self) {
        let jobs: Vec<&Job> = self.jobs.iter().collect();
        let whole = self.limits_of(&jobs).whole;
        let Some(job) = jobs.last().filter(|job| job.longest() > whole) else {
            return;
        };
        Reporter::new(self.audience, Some(job.id())).warning(format!(
            "The longest training example has {} tokens, and memory holds the activations of {whole}; longer passes keep \
             the input of each block alone and recompute the rest. That takes about a third more time and changes no \
             result.",
            job.longest()
        ));
    }

    /// Stops one job, or all.
    pub(super) fn stop(&mut self, id: Option<&str>, reason: StopReason) -> Result<(), TrainError> {
        let is_meant = |found: &str| id.is_none_or(|id| id == found);
        let (stopped, loading) = std::mem::take(&mut self.loading)
            .into_iter()
            .partition(|loading| is_meant(&loading.id));
        self.loading = loading;
        let stopped: Vec<Loading> = stopped;
        for loading in stopped {
            let checkpoint = loading.resume.map(|path| path.display().to_string());
            Reporter::new(self.audience, Some(&loading.id)).stopped(0, reason, checkpoint);
        }
        for index in (0..self.jobs.len()).rev() {
            if !is_meant(self.jobs[index].id()) {
                continue;
            }
            match self.jobs[index].stop(reason, self.base) {
                Ok(()) => drop(self.jobs.remove(index)),
                Err(error) => self.lose(index, error)?,
            }
        }
        Ok(())
    }

    /// Lets one job, or all, take no steps, or take them again.
    pub(super) fn pause(&mut self, id: Option<&str>, is_paused: bool) {
        let is_meant = |found: &str| id.is_none_or(|id| id == found);
        for job in self.jobs.iter_mut().filter(|job| is_meant(job.id())) {
            job.is_paused = is_paused;
        }
        for loading in self.loading.iter_mut().filter(|loading| is_meant(&loading.id)) {
            loading.is_paused = is_paused;
        }
    }

    /// Removes a job that has failed.
    pub(super) fn lose(&mut self, index: usize, error: TrainError) -> Result<(), TrainError> {
        if error.ends_the_process() {
            return Err(error);
        }
        self.failures += 1;
        self.jobs.remove(index).fail(&error);
        Ok(())
    }

    /// Removes a job that has no step left.
    pub(super) fn deliver_if_done(&mut self, index: usize) -> Result<(), TrainError> {
        if !self.jobs[index].is_done() {
            return Ok(());
        }
        match self.jobs[index].deliver(self.base) {
            Ok(()) => drop(self.jobs.remove(index)),
            Err(error) => self.lose(index, error)?,
        }
        Ok(())
    }

    /// Answers a command that makes no sense: the job that it is about fails; without one it is a warning.
    pub(super) fn refuse(&mut self, job: Option<&str>, reason: &str) {
        match job {
            Some(id) => {
                self.failures += 1;
                let error = TrainError::Specification(reason.to_owned());
                Reporter::new(self.audience, Some(id)).failed(&error);
            }
            None => self.process_reporter().warning(reason.to_owned()),
        }
    }

    fn has(&self, id: &str) -> bool {
        self.jobs.iter().any(|job| job.id() == id) || self.loading.iter().any(|loading| loading.id == id)
    }
}
