//! Where replicas come from: given addresses, or processes on this machine.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tunesmith_types::ids::BaseModelId;

use crate::{
    LocalEngines,
    catalogue::BaseModel,
    fleet::{Fleet, ReplicaKey},
    local_engines::EngineState,
    settings::StaticReplica,
};

/// Where replicas come from.
#[derive(Debug)]
pub enum ReplicaSource {
    /// Replicas that somebody else runs. They must be able to open the staged adapters under our paths.
    Static(Vec<StaticReplica>),
    /// Engines that this process starts as its children.
    Local(LocalEngines),
}

/// The replicas of one base model at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replicas {
    Known(Vec<ReplicaKey>),
    Starting,
    Failed { reason: String, attempts: u32 },
}

impl ReplicaSource {
    /// Replicas of `base`, starting one where this machine runs them.
    pub(crate) fn replicas(&self, base: &BaseModel) -> Replicas {
        match self {
            Self::Static(given) => {
                let keys: Vec<ReplicaKey> = given
                    .iter()
                    .filter(|replica| {
                        replica.base_model == base.id.to_string()
                            || replica.base_model == base.digest.as_str()
                    })
                    .map(|replica| ReplicaKey {
                        url: replica.url.trim_end_matches('/').to_owned(),
                        generation: 0,
                    })
                    .collect();
                if keys.is_empty() {
                    let reason = format!(
                        "no replica is configured for base model `{}` ({})",
                        base.name, base.id
                    );
                    return Replicas::Failed {
                        reason,
                        attempts: u32::MAX,
                    };
                }
                Replicas::Known(keys)
            }
            Self::Local(engines) => match engines.ensure(base) {
                EngineState::Ready(key) => Replicas::Known(vec![key]),
                EngineState::Starting => Replicas::Starting,
                EngineState::Failed { reason, attempts } => Replicas::Failed { reason, attempts },
            },
        }
    }

    /// Which of `candidates` get replicas now. Where engines are limited, those with work come first, then those with
    /// a revision that waits, then the latest used; an idle engine gives way, a busy one does not.
    pub(crate) async fn choose(&self, candidates: &[Candidate], fleet: &Fleet) -> HashSet<BaseModelId> {
        let Self::Local(engines) = self else {
            return candidates.iter().map(|candidate| candidate.base).collect();
        };
        let present = engines.present();
        let chosen = rank(candidates, &present, engines.limit(), &|base| fleet.load(base));
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
        chosen
    }

    /// Stops what this source started.
    pub async fn shutdown(&self) {
        if let Self::Local(engines) = self {
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
