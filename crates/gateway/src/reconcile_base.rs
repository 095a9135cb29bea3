//! One base model, one round: its replicas as they are against its revisions as they ought to be.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tunesmith_blobs::Blobs;
use tunesmith_store::{adapters::AdapterVersion, routing::RoutedRevision};
use tunesmith_types::states::RevisionState;

use crate::{
    catalogue::{self, Catalogue, DesiredBase, engine_name},
    fleet::{Fleet, ReplicaKey},
    probe::{self, ProbeError},
    replica::{ModelCard, ReplicaClient, ReplicaError},
    settings::GatewaySettings,
    source::{ReplicaSource, Replicas},
    staging::{self, StagingError},
};

/// A revision fails after this many tries that each failed for a reason that might pass.
const MOST_ATTEMPTS: u32 = 6;
/// Longest pause between two tries on one replica.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a round works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) catalogue: Catalogue,
    pub(crate) blobs: Blobs,
    pub(crate) fleet: Fleet,
    pub(crate) source: Arc<ReplicaSource>,
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) http: reqwest::Client,
}

/// What one base model's rounds remember from each other.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    attempts: HashMap<(ReplicaKey, String), Attempt>,
    unneeded_since: HashMap<(ReplicaKey, String), Instant>,
}

#[derive(Debug)]
struct Attempt {
    count: u32,
    next: Instant,
}

/// Why a version is not ready on a replica.
#[derive(Debug, thiserror::Error)]
enum LoadError {
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
}

/// How a version stands on one replica after a round.
enum Outcome {
    Ready,
    /// To be tried again.
    Waiting,
    Failed(String),
}

struct Replica {
    key: ReplicaKey,
    client: ReplicaClient,
    base_name: String,
    cards: HashMap<String, ModelCard>,
}

/// One round. What fails is logged, recorded in the revision, or tried again in a later round.
pub(crate) async fn reconcile(context: &Context, desired: &DesiredBase, memory: &mut Memory) {
    let base = &desired.base;
    let keys = match context.source.replicas(base) {
        Replicas::Known(keys) => keys,
        Replicas::Starting => return context.fleet.set_replicas(base.id, &[], None),
        Replicas::Failed { reason, attempts } => {
            // One that died once is about to come back, so requests wait for it.
            context
                .fleet
                .set_replicas(base.id, &[], (attempts > 1).then_some(reason));
            if attempts >= MOST_ATTEMPTS / 2 {
                fail_pending(context, desired).await;
            }
            return;
        }
    };
    let replicas = reachable(context, &keys).await;
    let known: Vec<(ReplicaKey, String)> = replicas
        .iter()
        .map(|replica| (replica.key.clone(), replica.base_name.clone()))
        .collect();
    let failure = known.is_empty().then(|| "no replica answers".to_owned());
    context.fleet.set_replicas(base.id, &known, failure);
    for revision in &desired.revisions {
        settle(context, desired, revision, &replicas, memory).await;
    }
    unload_unneeded(context, desired, &replicas, memory).await;
}

async fn fail_pending(context: &Context, desired: &DesiredBase) {
    let name = &desired.base.name;
    let reason =
        format!("Base model `{name}` has no inference engine that starts; the platform's log says why.");
    for revision in desired.revisions.iter().filter(|revision| is_pending(revision)) {
        context.catalogue.mark_failed(revision, &reason).await;
    }
}

async fn reachable(context: &Context, keys: &[ReplicaKey]) -> Vec<Replica> {
    let asked = keys.iter().map(|key| async {
        let client = ReplicaClient::new(context.http.clone(), &key.url, context.settings.load_timeout);
        match client.models().await {
            Ok(cards) => {
                let base_name = cards.values().find(|card| card.parent.is_none()).map(|card| card.id.clone());
                let base_name = base_name.unwrap_or_default();
                Some(Replica { key: key.clone(), client, base_name, cards })
            }
            Err(error) => {
                tracing::warn!(url = %key.url, error = &error as &dyn std::error::Error, "replica does not answer");
                None
            }
        }
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

fn is_pending(revision: &RoutedRevision) -> bool {
    revision.state == RevisionState::Pending
}

/// Brings one revision to every replica and records how that went.
async fn settle(
    context: &Context,
    desired: &DesiredBase,
    revision: &RoutedRevision,
    replicas: &[Replica],
    memory: &mut Memory,
) {
    let mut waiting = replicas.is_empty();
    let mut failure = None;
    for version in catalogue::versions(revision) {
        for replica in replicas {
            match ensure_ready(context, desired, version, replica, memory).await {
                Outcome::Ready => {}
                Outcome::Waiting => waiting = true,
                Outcome::Failed(reason) => failure = Some(reason),
            }
        }
    }
    if !is_pending(revision) {
        let loaded = failure.is_none() && !waiting;
        return context.catalogue.mark_loaded(revision, loaded).await;
    }
    if let Some(reason) = failure {
        context.catalogue.mark_failed(revision, &reason).await;
    } else if !waiting {
        context.catalogue.mark_active(revision).await;
    }
}

async fn ensure_ready(
    context: &Context,
    desired: &DesiredBase,
    version: &AdapterVersion,
    replica: &Replica,
    memory: &mut Memory,
) -> Outcome {
    let name = engine_name(version);
    let listed = replica.cards.contains_key(&name);
    if listed && context.fleet.is_ready(desired.base.id, &replica.key, &name) {
        return Outcome::Ready;
    }
    context
        .fleet
        .set_ready(desired.base.id, &replica.key, &name, false);
    let slot = (replica.key.clone(), name.clone());
    if memory
        .attempts
        .get(&slot)
        .is_some_and(|attempt| Instant::now() < attempt.next)
    {
        return Outcome::Waiting;
    }
    let Err(error) = load_and_probe(context, version, replica).await else {
        memory.attempts.remove(&slot);
        context
            .fleet
            .set_ready(desired.base.id, &replica.key, &name, true);
        return Outcome::Ready;
    };
    let attempt = memory.attempts.entry(slot).or_insert(Attempt {
        count: 0,
        next: Instant::now(),
    });
    attempt.count += 1;
    attempt.next = Instant::now() + Duration::from_secs(1 << attempt.count.min(6)).min(LONGEST_PAUSE);
    let source: &dyn std::error::Error = &error;
    tracing::warn!(%name, url = %replica.key.url, attempt = attempt.count, error = source, "adapter is not ready");
    if error.is_permanent() || attempt.count >= MOST_ATTEMPTS {
        return Outcome::Failed(public_reason(&error, &name, version));
    }
    Outcome::Waiting
}

/// What the owner of the deployment may read: no addresses and no paths of ours.
fn public_reason(error: &LoadError, name: &str, version: &AdapterVersion) -> String {
    let shown = format!("{}@{}", version.adapter, version.number);
    match error {
        LoadError::Staging(error) if error.is_permanent() => {
            format!("The stored files of `{shown}` are missing or damaged: {error}.")
        }
        LoadError::Staging(_) => {
            format!("The files of `{shown}` could not be fetched from the object store.")
        }
        LoadError::Replica(ReplicaError::Refused { error, .. })
        | LoadError::Probe(ProbeError::Replica(ReplicaError::Refused { error, .. })) => {
            let words: String = error.message.replace(name, &shown).chars().take(500).collect();
            format!("The inference engine refused `{shown}`: {words}")
        }
        LoadError::Replica(_) | LoadError::Probe(ProbeError::Replica(_)) => {
            format!("The inference engine did not answer while `{shown}` was loaded.")
        }
        LoadError::Probe(error) => format!(
            "`{shown}` failed its probe: {}.",
            error.to_string().replace(name, &shown)
        ),
        LoadError::Conflict { .. } => {
            format!("The inference engine holds other bytes under the name of `{shown}`.")
        }
    }
}

async fn load_and_probe(
    context: &Context,
    version: &AdapterVersion,
    replica: &Replica,
) -> Result<(), LoadError> {
    let name = engine_name(version);
    let folder = adapter_folder(context, version);
    staging::stage(&context.blobs, &version.files, &folder).await?;
    match replica.cards.get(&name) {
        Some(card) => check_root(card, &folder)?,
        None => load(replica, &name, &folder).await?,
    }
    let probed = probe::probe(&replica.client, &replica.base_name, &name, &folder).await;
    if let Err(error) = &probed
        && error.is_permanent()
        && let Err(error) = replica.client.unload(&name).await
    {
        tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot unload an adapter that does not act");
    }
    Ok(probed?)
}

async fn load(replica: &Replica, name: &str, folder: &std::path::Path) -> Result<(), LoadError> {
    match replica.client.load(name, folder).await {
        Ok(()) => Ok(()),
        Err(ReplicaError::Refused { error, .. }) if error.is_already_loaded() => {
            // Another gateway was faster. Names are bound to digests, but trust what the replica says, not the name.
            match replica.client.models().await?.get(name) {
                Some(card) => check_root(card, folder),
                None => Err(ReplicaError::Refused {
                    url: replica.key.url.clone(),
                    error,
                }
                .into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn check_root(card: &ModelCard, folder: &std::path::Path) -> Result<(), LoadError> {
    let found = card.root.as_deref().unwrap_or_default();
    if std::path::Path::new(found) == folder {
        return Ok(());
    }
    let wanted = folder.display().to_string();
    Err(LoadError::Conflict {
        name: card.id.clone(),
        found: found.to_owned(),
        wanted,
    })
}

fn adapter_folder(context: &Context, version: &AdapterVersion) -> PathBuf {
    context
        .settings
        .cache_dir
        .join("adapters")
        .join(version.digest.as_str())
}

/// Unloads what carries our naming and no revision wants, once it was unwanted for the grace and nothing uses it.
async fn unload_unneeded(
    context: &Context,
    desired: &DesiredBase,
    replicas: &[Replica],
    memory: &mut Memory,
) {
    let wanted: HashSet<String> = desired
        .revisions
        .iter()
        .flat_map(catalogue::versions)
        .map(engine_name)
        .collect();
    let base = desired.base.id;
    let mut unneeded = HashSet::new();
    for replica in replicas {
        for name in replica
            .cards
            .keys()
            .filter(|name| is_our_name(name) && !wanted.contains(*name))
        {
            let slot = (replica.key.clone(), name.clone());
            unneeded.insert(slot.clone());
            let since = *memory.unneeded_since.entry(slot).or_insert_with(Instant::now);
            let idle = !context.fleet.is_in_use(base, &replica.key, name);
            if since.elapsed() < context.settings.unload_grace || !idle {
                continue;
            }
            context.fleet.set_ready(base, &replica.key, name, false);
            match replica.client.unload(name).await {
                Ok(()) => {
                    tracing::info!(%name, url = %replica.key.url, "unloaded an adapter that nothing uses")
                }
                Err(error) => {
                    tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot unload an adapter");
                }
            }
        }
    }
    memory.unneeded_since.retain(|slot, _| unneeded.contains(slot));
}

/// `<adapter>--v<number>-<8 hex digits>`
fn is_our_name(name: &str) -> bool {
    let Some((_, version)) = name.rsplit_once("--v") else {
        return false;
    };
    let Some((number, digest)) = version.split_once('-') else {
        return false;
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits && digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours_to_unload() {
        assert!(is_our_name("support--v12-0123abcd"));
        for foreign in [
            "support",
            "support--v1",
            "support--vx-01234567",
            "support--v1-0123",
            "--v-01234567",
        ] {
            assert!(!is_our_name(foreign), "{foreign}");
        }
    }
}
