//! Bringing one adapter onto one replica: its files, the load, the proof that it acts.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::OwnedSemaphorePermit;
use tunesmith_store::{adapters::AdapterVersion, replicas::ReplicaKind};
use tunesmith_types::names::Sha256Digest;

use crate::{
    board::{Board, Present},
    catalogue::engine_name,
    observe, plain_adapter,
    probe::{self, ProbeError},
    reconcile_base::Context,
    replica::{ModelCard, ReplicaClient, ReplicaError},
    slots::{Phase, SlotKey},
    staging::{self, StagingError},
    upstream_error::LoadFault,
};

/// Why a version is not ready on a replica.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("the replica has `{name}` loaded from {found}, not from {wanted}")]
    Conflict {
        name: String,
        found: String,
        wanted: String,
    },
}

impl LoadError {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Staging(error) => error.is_permanent(),
            Self::Replica(error) => error.is_permanent(),
            Self::Probe(error) => error.is_permanent(),
            Self::Conflict { .. } => true,
        }
    }

    /// What the owner of the deployment may read: no addresses and no paths of ours.
    fn public_reason(&self, name: &str, version: &AdapterVersion) -> String {
        let shown = format!("{}@{}", version.adapter, version.number);
        match self {
            Self::Staging(error) if error.is_permanent() => {
                format!("The stored files of `{shown}` are missing or damaged: {error}.")
            }
            Self::Staging(_) => {
                format!("The files of `{shown}` could not be fetched from the object store.")
            }
            Self::Replica(error) | Self::Probe(ProbeError::Replica(error)) => {
                public_refusal(error, name, &shown)
            }
            Self::Probe(error) => format!(
                "`{shown}` failed its probe: {}.",
                error.to_string().replace(name, &shown)
            ),
            Self::Conflict { .. } => {
                format!("The inference engine holds other bytes under the name of `{shown}`.")
            }
        }
    }
}

fn public_refusal(error: &ReplicaError, name: &str, shown: &str) -> String {
    let ReplicaError::Refused { error, .. } = error else {
        return format!("The inference engine did not answer while `{shown}` was loaded.");
    };
    match error.load_fault() {
        LoadFault::Adapter | LoadFault::Replica => {
            let words = error.public_words(name, shown);
            format!("The inference engine refused `{shown}`: {words}")
        }
        LoadFault::NoFiles => format!(
            "The inference engine does not see the files of `{shown}`; the operator must share the gateway's cache folder with it."
        ),
        LoadFault::NoRoute => format!(
            "The inference engine does not take `{shown}`: it was started without leave to load adapters while it runs."
        ),
        LoadFault::Access => format!(
            "The inference engine does not take `{shown}` from this gateway; the operator must give the gateway its key."
        ),
    }
}

/// Where the files of a version with this digest lie, here and for the replicas.
pub(crate) fn adapter_folder(cache_dir: &Path, digest: &Sha256Digest) -> PathBuf {
    cache_dir.join("adapters").join(digest.as_str())
}

/// Begins to bring `version` onto `replica`, unless that is done, under way, or not yet to be tried again. `again`: even
/// where it has failed for good.
pub(crate) fn begin(
    context: &Context,
    board: &Arc<Board>,
    replica: &Present,
    version: &AdapterVersion,
    again: bool,
) {
    let key: SlotKey = (replica.key.clone(), engine_name(version));
    if !board.slots(|slots| slots.begin(&key, again)) {
        return;
    }
    let bringing = Bringing {
        context: context.clone(),
        board: Arc::clone(board),
        replica: replica.clone(),
        client: observe::client(context, &replica.place),
        version: version.clone(),
        key,
    };
    board.spawn(bringing.run());
}

struct Bringing {
    context: Context,
    board: Arc<Board>,
    replica: Present,
    client: ReplicaClient,
    version: AdapterVersion,
    key: SlotKey,
}

impl Bringing {
    async fn run(self) {
        let (replica, name) = &self.key;
        let fleet = &self.context.fleet;
        fleet.set_ready(self.version.base_model_id, replica, name, false);
        match self.bring().await {
            Ok(()) => {
                // In this order, so that a round that finds it ready also finds that requests may go there.
                fleet.set_ready(self.version.base_model_id, replica, name, true);
                if self.board.slots(|slots| slots.succeed(&self.key)) {
                    tracing::info!(%name, url = %replica.url, "adapter is ready");
                }
            }
            Err(error) => {
                let reason = error.public_reason(name, &self.version);
                let pause = self.context.settings.retry_pause;
                let permanent = error.is_permanent();
                let attempt = self
                    .board
                    .slots(|slots| slots.fail(&self.key, reason, permanent, pause));
                let source: &dyn std::error::Error = &error;
                tracing::warn!(%name, url = %replica.url, attempt, permanent, error = source, "adapter is not ready");
            }
        }
        fleet.wake();
    }

    async fn bring(&self) -> Result<(), LoadError> {
        let staged = adapter_folder(&self.context.settings.cache_dir, &self.version.digest);
        staging::stage(&self.context.blobs, &self.version.files, &staged).await?;
        let folder = match self.replica.place.kind {
            ReplicaKind::Vllm => plain_adapter::folder(&staged).await?,
            ReplicaKind::Engine => staged,
        };
        self.advance(Phase::Staged);
        self.load_in_turn(&folder).await?;
        self.advance(Phase::Probing);
        let name = &self.key.1;
        let probed = probe::probe(
            &self.client,
            &self.replica.seen.base_name,
            name,
            &self.version.manifest,
            &folder,
        )
        .await;
        if let Err(error) = &probed
            && error.is_permanent()
            && let Err(error) = self.client.unload(name).await
        {
            tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot unload an adapter that does not act");
        }
        Ok(probed?)
    }

    fn advance(&self, phase: Phase) {
        self.board.slots(|slots| slots.advance(&self.key, phase));
    }

    /// A replica reads one adapter after the other, so loads take turns. One that takes very long gives its turn away:
    /// it must not hold up the others.
    async fn load_in_turn(&self, folder: &Path) -> Result<(), LoadError> {
        let turn = Arc::clone(&self.replica.turn).acquire_owned().await;
        let mut turn: Option<OwnedSemaphorePermit> = turn.ok();
        self.advance(Phase::Loading);
        let mut load = std::pin::pin!(self.load(folder));
        tokio::select! {
            loaded = &mut load => return loaded,
            () = tokio::time::sleep(self.context.settings.load_turn) => drop(turn.take()),
        }
        load.await
    }

    /// What the replica lists decides, not what we remember: an earlier load may have ended after we gave up on it, the
    /// replica may have started anew, another gateway may have been faster.
    async fn load(&self, folder: &Path) -> Result<(), LoadError> {
        let name = &self.key.1;
        if let Some(card) = self.client.models().await?.get(name) {
            return check_root(card, folder);
        }
        match self.client.load(name, folder).await {
            Ok(()) => Ok(()),
            Err(ReplicaError::Refused { error, .. }) if error.is_already_loaded() => {
                match self.client.models().await?.get(name) {
                    Some(card) => check_root(card, folder),
                    None => Err(ReplicaError::Refused {
                        url: self.client.url().to_owned(),
                        error,
                    }
                    .into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Names are bound to digests, but what counts is the path that the replica has read.
fn check_root(card: &ModelCard, folder: &Path) -> Result<(), LoadError> {
    let found = card.root.as_deref().unwrap_or_default();
    if Path::new(found) == folder {
        return Ok(());
    }
    Err(LoadError::Conflict {
        name: card.id.clone(),
        found: found.to_owned(),
        wanted: folder.display().to_string(),
    })
}
