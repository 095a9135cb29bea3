//! One base model, one round: its replicas as they are against its revisions as they ought to be. A round only decides
//! and starts; what takes time runs in tasks beside it and wakes the next round when it has ended.

use std::sync::Arc;

use tunesmith_blobs::Blobs;
use tunesmith_store::routing::RoutedRevision;
use tunesmith_types::states::RevisionState;

use crate::{
    board::{Board, Present},
    capacity::{self, Claim, Plan},
    catalogue::{self, Catalogue, DesiredBase, engine_name},
    drain,
    fleet::{Fleet, KnownReplica},
    load, observe,
    settings::GatewaySettings,
    slots::{MOST_ATTEMPTS, SlotKey, Standing},
    source::{ReplicaPlace, ReplicaSource, Replicas},
};

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

/// How a revision stands on all replicas.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ready,
    Waiting,
    Failed(String),
}

/// One round. What fails is logged, recorded in the revision, or tried again in a later round.
pub(crate) async fn reconcile(context: &Context, desired: &DesiredBase, board: &Arc<Board>) {
    let base = &desired.base;
    let places = match context.source.replicas(base) {
        Replicas::Known(places) => places,
        Replicas::Starting => {
            board.set_places(&[]);
            return context.fleet.set_replicas(base.id, &[], None);
        }
        Replicas::Failed { reason, attempts } => {
            board.set_places(&[]);
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
    let present = know(context, desired, &places, board);
    let plans = bring(context, desired, &present, board);
    for revision in desired.revisions.iter().filter(|revision| is_pending(revision)) {
        settle(context, desired, revision, &present, &plans, board).await;
    }
    // Where nobody answers nothing is known, and the way back stays open.
    let settled = desired.revisions.iter().filter(|revision| !is_pending(revision));
    for revision in settled.filter(|_| !present.is_empty()) {
        let loaded = outcome(desired, revision, &present, &plans, board) == Outcome::Ready;
        context.catalogue.mark_loaded(revision, loaded).await;
    }
    for (replica, plan) in present.iter().zip(&plans) {
        drain::unneeded(context, base.id, board, replica, &plan.wanted);
    }
}

/// Asks the replicas, and tells the fleet which of them answer.
fn know(
    context: &Context,
    desired: &DesiredBase,
    places: &[ReplicaPlace],
    board: &Arc<Board>,
) -> Vec<Present> {
    let base = desired.base.id;
    board.set_places(places);
    observe::ask(context, base, places, board);
    let present = board.present();
    let known: Vec<KnownReplica> = present
        .iter()
        .map(|replica| KnownReplica {
            key: replica.key.clone(),
            base_name: replica.seen.base_name.clone(),
            api_key: replica.place.api_key.clone(),
            seen: replica.seen.taken,
        })
        .collect();
    let silent = known.is_empty() && !board.is_unasked();
    context
        .fleet
        .set_replicas(base, &known, silent.then(|| "no replica answers".to_owned()));
    present
}

/// Begins to bring what each replica is to hold and does not.
fn bring(context: &Context, desired: &DesiredBase, present: &[Present], board: &Arc<Board>) -> Vec<Plan> {
    let base = desired.base.id;
    let claims: Vec<Claim> = desired.revisions.iter().map(Claim::of).collect();
    let used = context.fleet.adapters_used(base);
    let order = |revision: &&RoutedRevision| match revision.state {
        RevisionState::Active => 0,
        RevisionState::Pending => 1,
        RevisionState::Superseded | RevisionState::Failed => 2,
    };
    // Those that answer requests come first, then those that are waited for, then the ones that are kept.
    let mut revisions: Vec<&RoutedRevision> = desired.revisions.iter().collect();
    revisions.sort_by_key(order);
    let plan = |replica: &Present| {
        let plan = capacity::plan(&claims, replica.most_adapters(), &used);
        board.slots(|slots| {
            slots.recheck(&replica.key, replica.seen.taken, |name| {
                let listed = replica.seen.cards.contains_key(name);
                (listed, context.fleet.is_ready(base, &replica.key, name))
            });
        });
        for revision in &revisions {
            for version in catalogue::versions(revision) {
                if plan.wanted.contains(&engine_name(version)) {
                    // One that is only waited for fails at its first failure; others are tried for ever.
                    load::begin(context, board, replica, version, !is_pending(revision));
                }
            }
        }
        plan
    };
    present.iter().map(plan).collect()
}

async fn fail_pending(context: &Context, desired: &DesiredBase) {
    let name = &desired.base.name;
    let reason =
        format!("Base model `{name}` has no inference engine that starts; the platform's log says why.");
    for revision in desired.revisions.iter().filter(|revision| is_pending(revision)) {
        context.catalogue.mark_failed(revision, &reason).await;
    }
}

fn is_pending(revision: &RoutedRevision) -> bool {
    revision.state == RevisionState::Pending
}

/// Records how a pending revision stands: active once every replica answers for all its versions, failed once one
/// cannot. A replica that has just fallen silent is waited for; one that stays silent is not.
async fn settle(
    context: &Context,
    desired: &DesiredBase,
    revision: &RoutedRevision,
    present: &[Present],
    plans: &[Plan],
    board: &Arc<Board>,
) {
    match outcome(desired, revision, present, plans, board) {
        Outcome::Failed(reason) => {
            context.catalogue.mark_failed(revision, &reason).await;
            board.slots(|slots| keys(revision, present).for_each(|key| slots.pardon(&key)));
        }
        Outcome::Ready if !board.is_anybody_missed(context.settings.absent_after) => {
            context.catalogue.mark_active(revision).await;
        }
        Outcome::Ready | Outcome::Waiting => {}
    }
}

fn outcome(
    desired: &DesiredBase,
    revision: &RoutedRevision,
    present: &[Present],
    plans: &[Plan],
    board: &Arc<Board>,
) -> Outcome {
    let mut waiting = present.is_empty();
    for (replica, plan) in present.iter().zip(plans) {
        if plan.full.contains(&revision.revision_id) {
            return Outcome::Failed(full(desired, replica));
        }
        waiting |= plan.later.contains(&revision.revision_id);
    }
    for key in keys(revision, present) {
        match board.slots(|slots| slots.standing(&key)) {
            Standing::Ready => {}
            Standing::Underway => waiting = true,
            Standing::Failed(reason) => return Outcome::Failed(reason),
        }
    }
    if waiting { Outcome::Waiting } else { Outcome::Ready }
}

fn keys<'a>(revision: &'a RoutedRevision, present: &'a [Present]) -> impl Iterator<Item = SlotKey> + 'a {
    present.iter().flat_map(|replica| {
        catalogue::versions(revision).map(|version| (replica.key.clone(), engine_name(version)))
    })
}

fn full(desired: &DesiredBase, replica: &Present) -> String {
    let most = replica.most_adapters().unwrap_or_default();
    format!(
        "The inference engines of base model `{}` hold {most} adapters each, one place of which stays free for swaps, \
         and all others are taken by deployments. Delete a deployment, or have the operator raise the limit.",
        desired.base.name
    )
}
