//! One device: its trainer, and the jobs that are trained together there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tunesmith_store::{
    notifications::Subscription,
    queue::{self, ClaimedJob, Opening, rank},
};
use tunesmith_types::ids::OrganizationId;

use crate::{
    failure::chain,
    run::{WorkerContext, run_job},
    trainer::Trainer,
    worker::{wait_at_most, wait_for_work},
};

/// Serves one device until the worker drains. Each gang begins with the job that has waited longest; a trainer that has
/// that job's base model loaded is used again.
pub(crate) async fn serve(context: Arc<WorkerContext>, device: String) {
    // Subscribed before the first look into the queue: a job that comes after the look wakes the wait.
    let mut wakeups = context.notifications.subscribe();
    let mut idle: Option<(Trainer, Instant)> = None;
    while !context.draining.is_cancelled() {
        let claimed_at = Instant::now();
        // Not raced against the shutdown: a claim that is dropped half-way would hold a job until it is rescued.
        match queue::claim(&context.store, &context.settings.queue, &context.settings.name).await {
            Ok(Some(job)) => {
                let before = idle.take().map(|(trainer, _)| trainer);
                let trainer = match before {
                    Some(trainer) if trainer.serves(&job) => trainer,
                    before => Trainer::start(&context, &job, &device, before),
                };
                let mut gang = Gang::new(&context, trainer);
                gang.begin(job, claimed_at);
                let trainer = gang.run(&mut wakeups).await;
                idle = trainer.map(|trainer| (trainer, Instant::now()));
            }
            Ok(None) => {
                let poll = context.settings.timings.poll;
                let left = idle
                    .as_ref()
                    .map(|(_, since)| (*since + context.settings.gang.idle).duration_since(Instant::now()));
                wait_for_work(&context, &mut wakeups, left.map_or(poll, |left| poll.min(left))).await;
                let idle_too_long = |since: &Instant| since.elapsed() >= context.settings.gang.idle;
                if let Some((trainer, _)) = idle.take_if(|(_, since)| idle_too_long(since)) {
                    trainer.finish().await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the queue cannot be asked");
                wait_at_most(&context, context.settings.timings.poll).await;
            }
        }
    }
    if let Some((trainer, _)) = idle {
        trainer.finish().await;
    }
}

/// What a job in a gang counts for.
struct Member {
    organization: OrganizationId,
    rank: u32,
}

struct Gang<'a> {
    context: &'a Arc<WorkerContext>,
    trainer: Trainer,
    runs: JoinSet<()>,
    members: HashMap<Id, Member>,
    /// The one member must have the trainer for itself.
    closed: bool,
}

impl<'a> Gang<'a> {
    fn new(context: &'a Arc<WorkerContext>, trainer: Trainer) -> Self {
        Self {
            context,
            trainer,
            runs: JoinSet::new(),
            members: HashMap::new(),
            closed: false,
        }
    }

    fn begin(&mut self, job: ClaimedJob, claimed_at: Instant) {
        tracing::info!(job = %job.token.job_id, run = %job.run_id, epoch = job.token.epoch, "a job is claimed");
        let member = Member {
            organization: job.organization_id,
            rank: rank(&job.hyperparameters),
        };
        self.closed = job.alone;
        let (context, desk) = (Arc::clone(self.context), self.trainer.desk());
        let run = self
            .runs
            .spawn(async move { run_job(&context, &job, &desk, claimed_at).await });
        self.members.insert(run.id(), member);
    }

    /// Until the last job has ended. Returns the trainer, where it still runs.
    async fn run(mut self, wakeups: &mut Subscription) -> Option<Trainer> {
        // Those who wait already come along whoever else waits: the gang takes little longer with them.
        self.fill(None).await;
        let poll = self.context.settings.timings.poll;
        let patience = Some(self.context.settings.gang.patience);
        while !self.members.is_empty() {
            let open = self.room().is_some();
            tokio::select! {
                biased;
                Some(ended) = self.runs.join_next_with_id() => self.end(&ended),
                () = wait_for_work(self.context, wakeups, poll), if open => {}
            }
            if !self.members.is_empty() {
                self.fill(patience).await;
            }
        }
        self.trainer.is_alive().then_some(self.trainer)
    }

    fn end(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => {
                tracing::error!(%error, "a run panicked; its job is rescued when its lease has run out");
                error.id()
            }
        };
        self.members.remove(&id);
    }

    /// The sum of ranks that is left, where another job may join.
    fn room(&self) -> Option<u32> {
        let bounds = &self.context.settings.gang;
        let taken: u32 = self.members.values().map(|member| member.rank).sum();
        let left = bounds.most_rank.checked_sub(taken).filter(|left| *left > 0);
        let open = !self.closed
            && self.members.len() < bounds.most_jobs
            && self.trainer.is_alive()
            && !self.context.draining.is_cancelled();
        left.filter(|_| open)
    }

    /// Claims jobs that may join, until there is no room or no such job.
    async fn fill(&mut self, patience: Option<Duration>) {
        let context = self.context;
        while let Some(room) = self.room() {
            let organizations: Vec<_> = self.members.values().map(|member| member.organization).collect();
            let opening = Opening {
                base_model: self.trainer.base_model(),
                dtypes: &self.trainer.dtypes(),
                organizations: &organizations,
                room,
                patience,
            };
            let claimed_at = Instant::now();
            let (queue, worker) = (&context.settings.queue, &context.settings.name);
            match queue::claim_to_join(&context.store, queue, worker, &opening).await {
                Ok(Some(job)) => self.begin(job, claimed_at),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the queue cannot be asked for jobs to join");
                    return;
                }
            }
        }
    }
}
