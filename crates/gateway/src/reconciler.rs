//! The loop that keeps replicas as the deployments ask. It is level-triggered: each round reads all that ought to be
//! and all that is, so a lost notification, a restarted replica or a restarted gateway only cost one round.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tunesmith_store::{StoreError, base_models};
use tunesmith_types::{ids::BaseModelId, states::RevisionState};

use crate::{
    board::Board,
    catalogue::DesiredBase,
    companions::Companions,
    reconcile_base::{self, Context},
    source::Candidate,
    sweep::Sweeper,
};

/// Pause after the announcements of the database could not be followed.
const LISTEN_PAUSE: Duration = Duration::from_secs(2);

/// Keeps replicas as the deployments ask. Run one beside each gateway.
#[derive(Debug)]
pub struct Reconciler {
    context: Context,
    companions: Option<Companions>,
    wake: Arc<Notify>,
    boards: HashMap<BaseModelId, Arc<Board>>,
    /// Base models of the given replicas, by what they were given for.
    external: HashMap<String, BaseModelId>,
    sweeper: Sweeper,
}

impl Reconciler {
    pub(crate) fn new(context: Context, companions: Companions, wake: Arc<Notify>) -> Self {
        Self {
            context,
            companions: Some(companions),
            wake,
            boards: HashMap::new(),
            external: HashMap::new(),
            sweeper: Sweeper::default(),
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
        for board in self.boards.values() {
            board.close().await;
        }
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

    async fn round(&mut self) -> Result<(), StoreError> {
        let desired = self.desired().await?;
        let used = self.context.fleet.last_used();
        let candidates: Vec<Candidate> = desired
            .iter()
            .map(|desired| Candidate {
                base: desired.base.id,
                pending: desired
                    .revisions
                    .iter()
                    .any(|revision| revision.state == RevisionState::Pending),
                last_used: used.get(&desired.base.id).copied(),
                external: self.context.source.is_external(&desired.base),
            })
            .collect();
        let chosen = self.context.source.choose(&candidates, &self.context.fleet).await;
        self.forget_others(&chosen).await;
        for base in &chosen {
            self.boards.entry(*base).or_default();
        }
        let rounds = desired
            .iter()
            .filter_map(|desired| Some((desired, self.boards.get(&desired.base.id)?)))
            .map(|(desired, board)| reconcile_base::reconcile(&self.context, desired, board));
        join_all(rounds).await;
        let settings = &self.context.settings;
        self.sweeper.sweep(settings, &desired, self.boards.values()).await;
        Ok(())
    }

    /// What ought to be, of every base model that is deployed, asked for, or served by a given replica.
    async fn desired(&mut self) -> Result<Vec<DesiredBase>, StoreError> {
        let mut desired = self.context.catalogue.desired().await?;
        self.find_external().await?;
        let mut named: HashSet<BaseModelId> = desired.iter().map(|desired| desired.base.id).collect();
        let used = self.context.fleet.last_used();
        for base in used.keys().chain(self.external.values()) {
            if named.insert(*base)
                && let Some(base) = self.context.catalogue.base_model(*base).await?
            {
                desired.push(DesiredBase {
                    base,
                    revisions: Vec::new(),
                });
            }
        }
        Ok(desired)
    }

    /// The base models of given replicas, as soon as they exist.
    async fn find_external(&mut self) -> Result<(), StoreError> {
        for name in self.context.source.external_bases() {
            if self.external.contains_key(name) {
                continue;
            }
            let found = match name.parse::<BaseModelId>() {
                Ok(id) => Some(id),
                Err(_) => match base_models::find_shared(self.context.catalogue.store(), name).await {
                    Ok(model) => Some(model.id),
                    Err(StoreError::NotFound(_)) => None,
                    Err(error) => return Err(error),
                },
            };
            if let Some(id) = found {
                self.external.insert(name.to_owned(), id);
            }
        }
        Ok(())
    }

    /// Ends the tasks of base models whose turn is over.
    async fn forget_others(&mut self, chosen: &HashSet<BaseModelId>) {
        let others: Vec<BaseModelId> = self
            .boards
            .keys()
            .filter(|base| !chosen.contains(base))
            .copied()
            .collect();
        for base in others {
            if let Some(board) = self.boards.remove(&base) {
                board.close().await;
            }
        }
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
