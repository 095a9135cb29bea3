//! The loop that keeps replicas as the deployments ask. It is level-triggered: each round reads all that ought to be
//! and all that is, so a lost notification, a restarted replica or a restarted gateway only cost one round.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tunesmith_types::{ids::BaseModelId, states::RevisionState};

use crate::{
    catalogue::DesiredBase,
    companions::Companions,
    reconcile_base::{self, Context, Memory},
    source::Candidate,
};

/// Pause after the announcements of the database could not be followed.
const LISTEN_PAUSE: Duration = Duration::from_secs(2);

/// Keeps replicas as the deployments ask. Run one beside each gateway.
#[derive(Debug)]
pub struct Reconciler {
    context: Context,
    companions: Option<Companions>,
    wake: Arc<Notify>,
    memories: HashMap<BaseModelId, Arc<Mutex<Memory>>>,
    rounds: JoinSet<()>,
}

impl Reconciler {
    pub(crate) fn new(context: Context, companions: Companions, wake: Arc<Notify>) -> Self {
        Self {
            context,
            companions: Some(companions),
            wake,
            memories: HashMap::new(),
            rounds: JoinSet::new(),
        }
    }

    /// Runs until `shutdown`, then stops the replicas that this process started.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let listener = tokio::spawn(listen(
            self.context.clone(),
            Arc::clone(&self.wake),
            shutdown.clone(),
        ));
        let companions = self
            .companions
            .take()
            .map(|companions| tokio::spawn(companions.run(shutdown.clone())));
        loop {
            if let Err(error) = self.round().await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read what ought to be deployed"
                );
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(self.context.settings.reconcile_every) => {}
            }
        }
        self.rounds.shutdown().await;
        self.context.source.shutdown().await;
        if let Some(companions) = companions
            && let Err(error) = companions.await
        {
            tracing::error!(%error, "what runs beside the reconciler failed");
        }
        if let Err(error) = listener.await {
            tracing::error!(%error, "the listener for deployments failed");
        }
    }

    async fn round(&mut self) -> Result<(), tunesmith_store::StoreError> {
        let mut desired = self.context.catalogue.desired().await?;
        let used = self.context.fleet.last_used();
        let named: HashSet<BaseModelId> = desired.iter().map(|desired| desired.base.id).collect();
        for base in used.keys().filter(|base| !named.contains(base)) {
            if let Some(base) = self.context.catalogue.base_model(*base).await? {
                desired.push(DesiredBase {
                    base,
                    revisions: Vec::new(),
                });
            }
        }
        let candidates: Vec<Candidate> = desired
            .iter()
            .map(|desired| Candidate {
                base: desired.base.id,
                pending: desired
                    .revisions
                    .iter()
                    .any(|revision| revision.state == RevisionState::Pending),
                last_used: used.get(&desired.base.id).copied(),
            })
            .collect();
        let chosen = self.context.source.choose(&candidates, &self.context.fleet).await;
        for desired in desired
            .into_iter()
            .filter(|desired| chosen.contains(&desired.base.id))
        {
            self.start_round(desired);
        }
        while self.rounds.try_join_next().is_some() {}
        Ok(())
    }

    /// One base model's round runs beside the others', so that a slow one holds up nobody; it never overlaps itself.
    fn start_round(&mut self, desired: DesiredBase) {
        let memory = self.memories.entry(desired.base.id).or_default();
        let Ok(mut memory): Result<OwnedMutexGuard<Memory>, _> = Arc::clone(memory).try_lock_owned() else {
            return;
        };
        let context = self.context.clone();
        self.rounds
            .spawn(async move { reconcile_base::reconcile(&context, &desired, &mut memory).await });
    }
}

/// Wakes the loop at each `deployment_updated`.
async fn listen(context: Context, wake: Arc<Notify>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = context.catalogue.follow(&wake) => {
                if let Err(error) = result {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow deployments; polling goes on");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LISTEN_PAUSE) => {}
        }
    }
}
