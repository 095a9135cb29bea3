//! Taking off replicas what no revision needs any more, once nothing uses it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tunesmith_store::replicas::ReplicaKind;
use tunesmith_types::ids::BaseModelId;

use crate::{
    board::{Board, Present},
    observe,
    reconcile_base::Context,
    slots::{Drain, Look, SlotKey},
};

/// A request that another gateway has just sent is in none of vLLM's lists yet, so one quiet look is not enough. Our
/// engine lets requests keep the adapter that they began with.
const QUIET_LOOKS_OF_VLLM: u32 = 2;

/// One step with each adapter that carries our naming and that `replica` is not to hold. `most`: what it can hold.
pub(crate) fn unneeded(
    context: &Context,
    base: BaseModelId,
    board: &Arc<Board>,
    replica: &Present,
    wanted: &HashSet<String>,
) {
    let ours = || replica.seen.cards.keys().filter(|name| is_our_name(name));
    let missing = wanted
        .iter()
        .filter(|name| !replica.seen.cards.contains_key(*name))
        .count();
    let crowded = replica
        .most_adapters()
        .is_some_and(|most| ours().count() + missing > most);
    let grace = if crowded {
        Duration::ZERO
    } else {
        context.settings.unload_grace
    };
    for name in ours().filter(|name| !wanted.contains(*name)) {
        let key: SlotKey = (replica.key.clone(), name.clone());
        let step = board.slots(|slots| slots.drain(&key, grace, look(context, base, replica, name)));
        if step == Drain::Nothing {
            continue;
        }
        context.fleet.set_ready(base, &replica.key, name, false);
        if step == Drain::Unload {
            unload(context, base, board, replica, key);
        }
    }
    let listed: HashSet<&String> = replica.seen.cards.keys().collect();
    board.slots(|slots| {
        slots.retain(|(key, name)| *key != replica.key || wanted.contains(name) || listed.contains(name));
    });
}

fn look(context: &Context, base: BaseModelId, replica: &Present, name: &str) -> Look {
    let ours = context.fleet.is_in_use(base, &replica.key, name);
    let (theirs, needed) = match (&replica.seen.metrics, replica.place.kind) {
        (Some(metrics), ReplicaKind::Vllm) => (metrics.busy.contains(name), QUIET_LOOKS_OF_VLLM),
        // It does not tell, so more time must do.
        (None, ReplicaKind::Vllm) => (false, 10 * QUIET_LOOKS_OF_VLLM),
        (_, ReplicaKind::Engine) => (false, 0),
    };
    Look {
        taken: replica.seen.taken,
        in_use: ours || theirs,
        needed,
    }
}

fn unload(context: &Context, base: BaseModelId, board: &Arc<Board>, replica: &Present, key: SlotKey) {
    // A request may have taken the adapter just before it was closed.
    if context.fleet.is_in_use(base, &replica.key, &key.1) {
        board.slots(|slots| slots.unloaded(&key, false));
        return;
    }
    let (context, shared) = (context.clone(), Arc::clone(board));
    let client = observe::client(&context, &replica.place);
    board.spawn(async move {
        let name = &key.1;
        let unloaded = client.unload(name).await;
        match &unloaded {
            Ok(()) => tracing::info!(%name, url = client.url(), "unloaded an adapter that nothing needs"),
            Err(error) => {
                tracing::warn!(%name, error = error as &dyn std::error::Error, "cannot unload an adapter");
            }
        }
        shared.slots(|slots| slots.unloaded(&key, unloaded.is_ok()));
        context.fleet.wake();
    });
}

/// `<adapter>--v<number>-<8 hex digits>`
pub(crate) fn is_our_name(name: &str) -> bool {
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
