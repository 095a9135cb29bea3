//! Which adapters a replica holds where it cannot hold all: those that answer, those that are to answer, and of those
//! that are kept for a rollback the latest used. One place stays free, because a swap loads before it unloads.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Instant,
};

use tunesmith_store::routing::RoutedRevision;
use tunesmith_types::{
    ids::{DeploymentId, DeploymentRevisionId},
    states::RevisionState,
};

use crate::catalogue::{self, engine_name};

/// What a revision asks of each replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) revision: DeploymentRevisionId,
    pub(crate) deployment: DeploymentId,
    pub(crate) state: RevisionState,
    /// Names of its adapters inside replicas.
    pub(crate) names: Vec<String>,
}

impl Claim {
    pub(crate) fn of(revision: &RoutedRevision) -> Self {
        Self {
            revision: revision.revision_id,
            deployment: revision.deployment_id,
            state: revision.state,
            names: catalogue::versions(revision).map(engine_name).collect(),
        }
    }
}

/// What a replica is to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Adapters to have.
    pub(crate) wanted: HashSet<String>,
    /// Pending revisions for which there is no room, unless a deployment is taken away.
    pub(crate) full: HashSet<DeploymentRevisionId>,
    /// Pending revisions for which there is room once another has taken over.
    pub(crate) later: HashSet<DeploymentRevisionId>,
}

/// The plan for a replica that holds `most` adapters. `claims` are in the order in which they were made; `used` says
/// when each adapter was last asked for.
pub(crate) fn plan(claims: &[Claim], most: Option<usize>, used: &HashMap<String, Instant>) -> Plan {
    let most = most.unwrap_or(usize::MAX);
    let of = |state| claims.iter().filter(move |claim| claim.state == state);
    let active: HashSet<&str> = of(RevisionState::Active).flat_map(names).collect();
    let mut during = active.clone();
    let mut accepted: Vec<&Claim> = Vec::new();
    let mut plan = Plan::default();
    for pending in of(RevisionState::Pending) {
        let alone: HashSet<&str> = active.iter().copied().chain(names(pending)).collect();
        let replaced = |claim: &Claim| {
            claim.deployment == pending.deployment
                || accepted.iter().any(|other| other.deployment == claim.deployment)
        };
        let after: HashSet<&str> = of(RevisionState::Active)
            .filter(|claim| !replaced(claim))
            .chain(accepted.iter().copied())
            .chain([pending])
            .flat_map(names)
            .collect();
        let grows = after.len() > active.len();
        if alone.len() > most || (grows && after.len() > most.saturating_sub(1).max(1)) {
            plan.full.insert(pending.revision);
        } else if during
            .iter()
            .copied()
            .chain(names(pending))
            .collect::<HashSet<_>>()
            .len()
            > most
        {
            plan.later.insert(pending.revision);
        } else {
            during.extend(names(pending));
            accepted.push(pending);
        }
    }
    let others = |claim: &&Claim| !matches!(claim.state, RevisionState::Active | RevisionState::Pending);
    let mut kept: Vec<&str> = claims.iter().rev().filter(others).flat_map(names).collect();
    kept.sort_by_key(|name| Reverse(used.get(*name).copied()));
    for name in kept {
        if during.contains(name) {
            continue;
        }
        if during.len() + 1 >= most {
            break;
        }
        during.insert(name);
    }
    plan.wanted = during.into_iter().map(ToOwned::to_owned).collect();
    plan
}

fn names(claim: &Claim) -> impl Iterator<Item = &str> {
    claim.names.iter().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(deployment: DeploymentId, state: RevisionState, names: &[&str]) -> Claim {
        Claim {
            revision: DeploymentRevisionId::new(),
            deployment,
            state,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn wanted(plan: &Plan) -> Vec<&str> {
        let mut wanted: Vec<&str> = plan.wanted.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        wanted
    }

    #[test]
    fn a_swap_may_take_the_spare_place_and_a_new_deployment_may_not() {
        let [first, second, third] = std::array::from_fn(|_| DeploymentId::new());
        let active = [
            claim(first, RevisionState::Active, &["a"]),
            claim(second, RevisionState::Active, &["b"]),
        ];
        let swap = claim(first, RevisionState::Pending, &["a2"]);
        let new = claim(third, RevisionState::Pending, &["c"]);
        let claims = [active[0].clone(), active[1].clone(), new.clone(), swap.clone()];
        let three = plan(&claims, Some(3), &HashMap::new());
        assert_eq!(three.full, HashSet::from([new.revision]));
        assert_eq!(wanted(&three), ["a", "a2", "b"]);
        assert_eq!(
            wanted(&plan(&claims, Some(4), &HashMap::new())),
            ["a", "a2", "b", "c"]
        );
        let other_swap = claim(second, RevisionState::Pending, &["b2"]);
        let both = [active[0].clone(), active[1].clone(), swap, other_swap.clone()];
        let swaps = plan(&both, Some(3), &HashMap::new());
        assert_eq!(
            (swaps.full.len(), swaps.later),
            (0, HashSet::from([other_swap.revision]))
        );
        let unbounded = plan(&claims, None, &HashMap::new());
        assert_eq!(wanted(&unbounded), ["a", "a2", "b", "c"]);
    }

    #[test]
    fn a_single_place_takes_a_first_adapter_but_no_swap() {
        let deployment = DeploymentId::new();
        let first = claim(deployment, RevisionState::Pending, &["a"]);
        assert_eq!(wanted(&plan(&[first], Some(1), &HashMap::new())), ["a"]);
        let swap = claim(deployment, RevisionState::Pending, &["b"]);
        let claims = [claim(deployment, RevisionState::Active, &["a"]), swap.clone()];
        assert_eq!(
            plan(&claims, Some(1), &HashMap::new()).full,
            HashSet::from([swap.revision])
        );
    }

    #[test]
    fn of_those_kept_for_a_rollback_the_latest_used_stay() {
        let now = Instant::now();
        let used = HashMap::from([
            ("old".to_owned(), now),
            (
                "older".to_owned(),
                now.checked_sub(Duration::from_secs(9)).unwrap_or(now),
            ),
        ]);
        let claims = ["older", "old", "never"]
            .map(|name| claim(DeploymentId::new(), RevisionState::Superseded, &[name]));
        let active = claim(DeploymentId::new(), RevisionState::Active, &["a"]);
        let all: Vec<Claim> = claims.into_iter().chain([active]).collect();
        assert_eq!(wanted(&plan(&all, Some(3), &used)), ["a", "old"]);
        assert_eq!(wanted(&plan(&all, Some(4), &used)), ["a", "old", "older"]);
        assert_eq!(wanted(&plan(&all, Some(2), &used)), ["a"]);
    }
}
