//! What a public name leads to, kept for as long as nothing has changed: a request reads one snapshot and is answered
//! by it alone.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tunesmith_store::{
    adapters::AdapterVersion,
    routing::{ResolvedRoute, RoutedRevision},
};
use tunesmith_types::ids::{AdapterVersionId, BaseModelId, DeploymentId, OrganizationId};

use crate::catalogue::engine_name;

/// Longest life of a snapshot: the most that a lost notification of another process can cost.
const LONGEST: Duration = Duration::from_secs(2);
/// Reads of the database that may run at once; the same name never has two.
const READERS: usize = 16;
/// More names than this are not kept at once.
const MOST_NAMES: usize = 10_000;

/// One version among those of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arm {
    pub(crate) version: Option<AdapterVersionId>,
    /// The replica's name of the version; none for the base model itself.
    pub(crate) adapter: Option<String>,
    /// `<adapter>@<number>`, or `base`.
    pub(crate) label: String,
    /// Of 100.
    pub(crate) weight: u8,
}

impl Arm {
    pub(crate) fn new(version: Option<&AdapterVersion>, weight: u8) -> Self {
        Self {
            version: version.map(|version| version.id),
            adapter: version.map(engine_name),
            label: version.map_or_else(
                || "base".to_owned(),
                |version| format!("{}@{}", version.adapter, version.number),
            ),
            weight,
        }
    }
}

/// A deployment's active revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) deployment: DeploymentId,
    pub(crate) revision: i32,
    pub(crate) base: BaseModelId,
    pub(crate) arms: Vec<Arm>,
    /// Where copies of requests go; its weight is their percentage.
    pub(crate) mirror: Option<Arm>,
}

impl From<&RoutedRevision> for Snapshot {
    fn from(revision: &RoutedRevision) -> Self {
        let mut arms: Vec<Arm> = Vec::with_capacity(revision.routes.len());
        for ResolvedRoute { version, weight } in &revision.routes {
            let arm = Arm::new(version.as_ref(), *weight);
            // Two aliases may have come to name the same version.
            match arms.iter_mut().find(|known| known.version == arm.version) {
                Some(known) => known.weight += arm.weight,
                None => arms.push(arm),
            }
        }
        Self {
            deployment: revision.deployment_id,
            revision: revision.number,
            base: revision.base_model_id,
            arms,
            mirror: revision
                .mirror
                .as_ref()
                .map(|mirror| Arm::new(Some(&mirror.version), mirror.percent)),
        }
    }
}

/// What a name leads to.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    Deployment(Arc<Snapshot>),
    Base(BaseModelId),
}

#[derive(Debug)]
struct Entry {
    destination: Destination,
    changes: u64,
    read: Instant,
}

/// The snapshots that still hold.
#[derive(Debug)]
pub(crate) struct Snapshots {
    entries: Mutex<HashMap<(OrganizationId, String), Entry>>,
    /// Whoever reads a name holds its turn, so that after a change one request reads and the others wait for it.
    turns: [tokio::sync::Mutex<()>; READERS],
    changes: watch::Receiver<u64>,
}

impl Snapshots {
    /// `changes` counts the changes of deployments.
    pub(crate) fn new(changes: watch::Receiver<u64>) -> Self {
        Self {
            entries: Mutex::default(),
            turns: Default::default(),
            changes,
        }
    }

    /// Waits for the turn to read `name`. What it leads to may be known by then.
    pub(crate) async fn turn(
        &self,
        organization: OrganizationId,
        name: &str,
    ) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (organization, name).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % READERS as u64).unwrap_or_default();
        self.turns[place].lock().await
    }

    /// Changes so far. Read it before the database, and hand it to [`Self::keep`] with what was read.
    pub(crate) fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Tells of later changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub(crate) fn find(&self, organization: OrganizationId, name: &str) -> Option<Destination> {
        let entries = self.lock();
        let entry = entries.get(&(organization, name.to_owned()))?;
        let holds = entry.changes == self.changes() && entry.read.elapsed() < LONGEST;
        holds.then(|| entry.destination.clone())
    }

    pub(crate) fn keep(
        &self,
        organization: OrganizationId,
        name: &str,
        destination: Destination,
        changes: u64,
    ) {
        let mut entries = self.lock();
        if entries.len() >= MOST_NAMES {
            entries.clear();
        }
        let entry = Entry {
            destination,
            changes,
            read: Instant::now(),
        };
        entries.insert((organization, name.to_owned()), entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(OrganizationId, String), Entry>> {
        self.entries
            .lock()
            .expect("invariant: no holder of the snapshots' lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_does_not_hold_after_it() {
        let (sender, receiver) = watch::channel(0);
        let snapshots = Snapshots::new(receiver);
        let (organization, base) = (OrganizationId::new(), BaseModelId::new());
        let before = snapshots.changes();
        snapshots.keep(organization, "chat", Destination::Base(base), before);
        assert!(snapshots.find(organization, "chat").is_some());
        assert!(snapshots.find(OrganizationId::new(), "chat").is_none());
        sender.send_modify(|count| *count += 1);
        assert!(snapshots.find(organization, "chat").is_none());
        // A slow read that began before the change.
        snapshots.keep(organization, "chat", Destination::Base(base), before);
        assert!(snapshots.find(organization, "chat").is_none());
        snapshots.keep(organization, "chat", Destination::Base(base), snapshots.changes());
        assert!(snapshots.find(organization, "chat").is_some());
    }
}
