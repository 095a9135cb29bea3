//! Where replicas come from: given addresses, or processes on this machine.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use tokio::sync::Notify;
use tunesmith_store::replicas::ReplicaKind;
use tunesmith_types::ids::BaseModelId;

use crate::{
    LocalEngines,
    catalogue::BaseModel,
    fleet::{Fleet, ReplicaKey},
    local_engines::EngineState,
    settings::{ReplicaSecret, StaticReplica},
};

/// Where replicas come from. A base model for which addresses are given is served there only; all others by engines on
/// this machine, where it runs any.
#[derive(Debug, Default)]
pub struct ReplicaSource {
    external: Vec<StaticReplica>,
    local: Option<LocalEngines>,
}

/// A replica, as far as it is known without asking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaPlace {
    /// Address; the generation is 0 where a restart can only be seen from what the replica says.
    pub(crate) key: ReplicaKey,
    pub(crate) kind: ReplicaKind,
    pub(crate) max_rank: Option<u32>,
    pub(crate) max_adapters: Option<u32>,
    pub(crate) api_key: Option<ReplicaSecret>,
}

impl ReplicaPlace {
    fn external(replica: &StaticReplica) -> Self {
        Self {
            key: ReplicaKey {
                url: replica.url.trim_end_matches('/').to_owned(),
                generation: 0,
            },
            kind: replica.kind,
            max_rank: replica.max_rank,
            max_adapters: replica.max_adapters,
            api_key: replica.api_key.clone(),
        }
    }

    fn local(key: ReplicaKey) -> Self {
        Self {
            key,
            kind: ReplicaKind::Engine,
            max_rank: None,
            max_adapters: None,
            api_key: None,
        }
    }
}

/// The replicas of one base model at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replicas {
    Known(Vec<ReplicaPlace>),
    Starting,
    Failed { reason: String, attempts: u32 },
}

impl ReplicaSource {
    /// Replicas that somebody else runs. They must be able to open the staged adapters under our paths.
    #[must_use]
    pub fn external(replicas: Vec<StaticReplica>) -> Self {
        Self {
            external: replicas,
            local: None,
        }
    }

    /// Engines that this process starts as its children.
    #[must_use]
    pub fn local(engines: LocalEngines) -> Self {
        Self {
            external: Vec::new(),
            local: Some(engines),
        }
    }

    /// The same, with addresses for some base models.
    #[must_use]
    pub fn with_external(self, replicas: Vec<StaticReplica>) -> Self {
        Self {
            external: replicas,
            ..self
        }
    }

    /// Who is told when a replica's state changes.
    pub(crate) fn set_wake(&self, wake: &Arc<Notify>) {
        if let Some(engines) = &self.local {
            engines.set_wake(Arc::clone(wake));
        }
    }

    /// The base models of the given addresses, as they were written.
    pub(crate) fn external_bases(&self) -> impl Iterator<Item = &str> {
        let mut seen = HashSet::new();
        self.external
            .iter()
            .map(|replica| replica.base_model.as_str())
            .filter(move |name| seen.insert(*name))
    }

    fn given<'a>(&'a self, base: &'a BaseModel) -> impl Iterator<Item = &'a StaticReplica> {
        self.external.iter().filter(|replica| {
            let name = replica.base_model.as_str();
            // A name counts for shared models only: anybody may give his own model any name.
            name == base.id.to_string()
                || name == base.digest.as_str()
                || (base.shared && name == base.name.as_str())
        })
    }

    /// Replicas of `base`, starting one where this machine runs them.
    pub(crate) fn replicas(&self, base: &BaseModel) -> Replicas {
        let places: Vec<ReplicaPlace> = self.given(base).map(ReplicaPlace::external).collect();
        if !places.is_empty() {
            return Replicas::Known(places);
        }
        let Some(engines) = &self.local else {
            let reason = format!(
                "no replica is configured for base model `{}` ({})",
                base.name, base.id
            );
            return Replicas::Failed {
                reason,
                attempts: u32::MAX,
            };
        };
        match engines.ensure(base) {
            EngineState::Ready(key) => Replicas::Known(vec![ReplicaPlace::local(key)]),
            EngineState::Starting => Replicas::Starting,
            EngineState::Failed { reason, attempts } => Replicas::Failed { reason, attempts },
        }
    }

    /// Which of `candidates` get replicas now. Where engines are limited, those with work come first, then those with
    /// a revision that waits, then the latest used; an idle engine gives way, a busy one does not.
    pub(crate) async fn choose(&self, candidates: &[Candidate], fleet: &Fleet) -> HashSet<BaseModelId> {
        let Some(engines) = &self.local else {
            return candidates.iter().map(|candidate| candidate.base).collect();
        };
        let (external, local): (Vec<Candidate>, Vec<Candidate>) = candidates
            .iter()
            .copied()
            .partition(|candidate: &Candidate| candidate.external);
        let present = engines.present();
        let mut chosen = rank(&local, &present, engines.limit(), &|base| fleet.load(base));
        let room = engines
            .limit()
            .saturating_sub(chosen.iter().filter(|base| !present.contains(base)).count());
        let mut kept = present.iter().filter(|base| chosen.contains(base)).count();
        for base in present.into_iter().filter(|base| !chosen.contains(base)) {
            if kept < room {
                kept += 1;
                continue;
            }
            tracing::info!(base_model = %base, "stopping an idle engine to make room");
            fleet.set_replicas(base, &[], None);
            engines.stop(base).await;
        }
        chosen.extend(external.iter().map(|candidate| candidate.base));
        chosen
    }

    /// Whether addresses are given for `base`.
    pub(crate) fn is_external(&self, base: &BaseModel) -> bool {
        self.given(base).next().is_some()
    }

    /// Stops what this source started.
    pub async fn shutdown(&self) {
        if let Some(engines) = &self.local {
            engines.shutdown().await;
        }
    }
}

/// A base model that somebody wants served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) base: BaseModelId,
    /// Whether a revision waits for it.
    pub(crate) pending: bool,
    pub(crate) last_used: Option<Instant>,
    /// Whether its replicas are somebody else's.
    pub(crate) external: bool,
}

fn rank(
    candidates: &[Candidate],
    present: &[BaseModelId],
    limit: usize,
    load: &dyn Fn(BaseModelId) -> usize,
) -> HashSet<BaseModelId> {
    let loads: HashMap<BaseModelId, usize> = candidates.iter().map(|c| (c.base, load(c.base))).collect();
    let mut order = candidates.to_vec();
    order.sort_by_key(|candidate| {
        let running = present.contains(&candidate.base) && loads[&candidate.base] > 0;
        let class = match candidate {
            _ if running => 0,
            _ if loads[&candidate.base] > 0 => 1,
            Candidate { pending: true, .. } => 2,
            Candidate {
                last_used: Some(_), ..
            } => 3,
            _ => 4,
        };
        (class, std::cmp::Reverse(candidate.last_used))
    });
    order
        .into_iter()
        .take(limit)
        .map(|candidate| candidate.base)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_engines_stay_and_waiting_ones_come_before_idle_ones() {
        let now = Instant::now();
        let [busy, asked, waiting, idle] = std::array::from_fn(|_| BaseModelId::new());
        let candidate = |base, pending, used: bool| Candidate {
            base,
            pending,
            last_used: used.then_some(now),
            external: false,
        };
        let candidates = [
            candidate(idle, false, false),
            candidate(waiting, true, false),
            candidate(asked, false, true),
            candidate(busy, false, true),
        ];
        let load = |base| usize::from(base == busy || base == asked);
        let present = [busy, idle];
        assert_eq!(rank(&candidates, &present, 1, &load), HashSet::from([busy]));
        assert_eq!(
            rank(&candidates, &present, 2, &load),
            HashSet::from([busy, asked])
        );
        assert_eq!(
            rank(&candidates, &present, 3, &load),
            HashSet::from([busy, asked, waiting])
        );
    }
}
