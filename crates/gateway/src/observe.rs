//! Looking at a replica: is it well, what has it loaded, what does it work on, did it start anew.

use std::{sync::Arc, time::Instant};

use tunesmith_store::replicas::{self, NewReplica, ReplicaKind};
use tunesmith_types::ids::BaseModelId;

use crate::{
    board::{Board, Observation},
    reconcile_base::Context,
    replica::{ReplicaClient, ReplicaError},
    source::ReplicaPlace,
};

/// Asks each of `places` that is due, beside everything else; a silent one holds up nobody.
pub(crate) fn ask(context: &Context, base: BaseModelId, places: &[ReplicaPlace], board: &Arc<Board>) {
    for place in places {
        if !board.begin_question(&place.key, context.settings.reconcile_every) {
            continue;
        }
        let (context, place, shared) = (context.clone(), place.clone(), Arc::clone(board));
        board.spawn(async move {
            let answer = look(&client(&context, &place), place.kind).await;
            if answer.is_ok() {
                register(&context, base, &place).await;
            }
            shared.end_question(&place.key, answer);
            context.fleet.wake();
        });
    }
}

/// A client of `place`.
pub(crate) fn client(context: &Context, place: &ReplicaPlace) -> ReplicaClient {
    ReplicaClient::new(
        context.http.clone(),
        &place.key.url,
        place.api_key.clone(),
        context.settings.load_timeout,
    )
}

async fn look(client: &ReplicaClient, kind: ReplicaKind) -> Result<Observation, ReplicaError> {
    let taken = Instant::now();
    client.health().await?;
    let cards = client.models().await?;
    let metrics = match client.metrics().await {
        Ok(metrics) => Some(metrics),
        Err(error) => {
            let source = &error as &dyn std::error::Error;
            tracing::debug!(
                url = client.url(),
                error = source,
                "a replica does not tell its metrics"
            );
            None
        }
    };
    let base = cards.values().find(|card| card.parent.is_none());
    let started = metrics.as_ref().and_then(|metrics| metrics.started);
    let created = base.and_then(|card| card.created);
    let started = match kind {
        ReplicaKind::Engine => created.map(|time| time.to_string()),
        ReplicaKind::Vllm => started.map(|time| time.to_string()),
    };
    Ok(Observation {
        base_name: base.map(|card| card.id.clone()).unwrap_or_default(),
        cards,
        metrics,
        started,
        taken,
    })
}

/// Tells the API what the replica can hold. An engine of this machine takes whatever we train, and is not told of.
async fn register(context: &Context, base: BaseModelId, place: &ReplicaPlace) {
    if place.key.generation != 0 {
        return;
    }
    let new = NewReplica {
        base_model_id: base,
        url: &place.key.url,
        kind: place.kind,
        max_rank: place.max_rank,
        max_adapters: place.max_adapters,
    };
    if let Err(error) = replicas::register(context.catalogue.store(), &new).await {
        tracing::warn!(url = %place.key.url, error = &error as &dyn std::error::Error, "cannot register a replica");
    }
}
