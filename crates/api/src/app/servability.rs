//! Whether the inference servers of a base model can serve an adapter. What they cannot is refused when the job or the
//! deployment is made, not after hours of training or in the middle of a promotion.

use std::time::Duration;

use serde_json::Value;
use tunesmith_store::adapters::AdapterVersion;
use tunesmith_store::base_models::{self, BaseModel};
use tunesmith_store::replicas::{self, Replica, ReplicaKind};
use tunesmith_types::hyperparameters::Hyperparameters;

use crate::error::ApiError;
use crate::state::ApiState;

/// A server that was well within this time counts: one that is down for an hour is thought to be gone.
const REPLICA_AGE: Duration = Duration::from_secs(3600);

/// What an adapter asks of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demands {
    /// The highest rank of any of its modules.
    rank: u64,
    /// Whether its weights are split into magnitude and direction.
    dora: bool,
    /// Whether it changes more than linear layers: biases, or whole modules.
    more_than_lora: bool,
}

impl Demands {
    /// From hyperparameters as a job or a manifest writes them.
    fn read(hyperparameters: &Value) -> Self {
        let field = |name: &str| hyperparameters.get(name).filter(|value| !value.is_null());
        let of_modules = field("rank_pattern").and_then(Value::as_object);
        let ranks = of_modules.into_iter().flat_map(|pattern| pattern.values());
        let rank = ranks.chain(field("rank")).filter_map(Value::as_u64).max();
        let bias = field("bias").and_then(Value::as_str).unwrap_or("none");
        let modules = field("modules_to_save").and_then(Value::as_array);
        Self {
            rank: rank.unwrap_or_default(),
            dora: field("use_dora") == Some(&Value::Bool(true)),
            more_than_lora: bias != "none" || modules.is_some_and(|modules| !modules.is_empty()),
        }
    }
}

/// Why a server cannot serve an adapter: the hyperparameter at fault, and a sentence.
fn objection(demands: Demands, replica: &Replica, base_model: &str) -> Option<(&'static str, String)> {
    let servers = format!("The inference servers of base model `{base_model}`");
    if let Some(most) = replica.max_rank.filter(|most| demands.rank > u64::from(*most)) {
        let message = format!(
            "{servers} load adapters of rank {most} at most; this one has rank {}. Use a lower rank, or have the operator \
             raise the servers' limit.",
            demands.rank
        );
        return Some(("rank", message));
    }
    if replica.kind != ReplicaKind::Vllm {
        return None;
    }
    if demands.dora {
        let message =
            format!("{servers} run vLLM, which does not serve DoRA adapters. Train without `use_dora`.");
        return Some(("use_dora", message));
    }
    demands.more_than_lora.then(|| {
        let message = format!(
            "{servers} run vLLM, which serves adapters of linear layers only: no biases and no `modules_to_save`."
        );
        ("modules_to_save", message)
    })
}

/// The first objection of a server of `model`. A promotion waits for all of them, so each must be able to.
async fn find_objection(
    state: &ApiState,
    model: &BaseModel,
    demands: Demands,
) -> Result<Option<(&'static str, String)>, ApiError> {
    let replicas = replicas::of_base_model(&state.store, model.id, REPLICA_AGE).await?;
    Ok(replicas
        .iter()
        .find_map(|replica| objection(demands, replica, model.name.as_str())))
}

fn not_servable(param: String, message: String) -> ApiError {
    ApiError::Invalid {
        code: "adapter_not_servable",
        param: Some(param),
        message,
    }
}

/// Checks a job's hyperparameters against the servers of `model`.
///
/// # Errors
/// What the job would make could not be served.
pub(super) async fn require_of_job(
    state: &ApiState,
    model: &BaseModel,
    hyperparameters: &Hyperparameters,
) -> Result<(), ApiError> {
    let written = serde_json::to_value(hyperparameters)
        .map_err(|_| ApiError::Unexpected("hyperparameters that are no JSON"))?;
    match find_objection(state, model, Demands::read(&written)).await? {
        None => Ok(()),
        Some((field, message)) => Err(not_servable(format!("hyperparameters.{field}"), message)),
    }
}

/// What is wrong where a version was made for other bytes than its base model now has.
pub(super) fn base_objection(version: &AdapterVersion, model: &BaseModel) -> Option<String> {
    let recorded = version.manifest.get("base_digest").and_then(Value::as_str)?;
    let present = model.details.as_ref()?.digest.as_str();
    (recorded != present).then(|| {
        format!(
            "`{}@{}` was made for other weights than those of base model `{}`: the digests differ. It would answer nonsense.",
            version.adapter, version.number, model.name
        )
    })
}

/// Checks a version against its base model and the servers of it.
///
/// # Errors
/// It was made for other bytes than the base model now has, or cannot be served.
pub(super) async fn require_of_version(state: &ApiState, version: &AdapterVersion) -> Result<(), ApiError> {
    let model = base_models::get_any(&state.store, version.base_model_id).await?;
    if let Some(message) = base_objection(version, &model) {
        return Err(ApiError::Invalid {
            code: "base_digest_differs",
            param: Some("adapter".to_owned()),
            message,
        });
    }
    let hyperparameters = version.manifest.get("hyperparameters").unwrap_or(&Value::Null);
    match find_objection(state, &model, Demands::read(hyperparameters)).await? {
        None => Ok(()),
        Some((_, message)) => Err(not_servable("adapter".to_owned(), message)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;
    use tunesmith_types::ids::{BaseModelId, ReplicaId};

    use super::*;

    fn replica(kind: ReplicaKind, max_rank: Option<u32>) -> Replica {
        Replica {
            id: ReplicaId::new(),
            base_model_id: BaseModelId::new(),
            url: "http://10.0.0.7".to_owned(),
            kind,
            max_rank,
            max_adapters: None,
            last_seen_at: Utc::now(),
        }
    }

    #[test]
    fn what_an_adapter_asks_is_read() {
        let plain = json!({"rank": 16, "rank_pattern": {"q_proj": 64, "v_proj": 8}, "bias": "none", "use_dora": false});
        let demands = Demands::read(&plain);
        assert_eq!(
            (demands.rank, demands.dora, demands.more_than_lora),
            (64, false, false)
        );
        assert!(Demands::read(&json!({"use_dora": true})).dora);
        for more in [json!({"bias": "all"}), json!({"modules_to_save": ["lm_head"]})] {
            assert!(Demands::read(&more).more_than_lora, "{more}");
        }
        assert_eq!(Demands::read(&Value::Null).rank, 0);
    }

    #[test]
    fn each_server_refuses_what_it_cannot_serve() {
        let (engine, vllm) = (ReplicaKind::Engine, ReplicaKind::Vllm);
        for (adapter, server, field) in [
            (json!({"rank": 16}), replica(vllm, Some(16)), None),
            (json!({"rank": 17}), replica(vllm, Some(16)), Some("rank")),
            (json!({"rank": 17}), replica(engine, Some(16)), Some("rank")),
            (json!({"rank": 512}), replica(vllm, None), None),
            (
                json!({"rank": 8, "use_dora": true}),
                replica(vllm, None),
                Some("use_dora"),
            ),
            (json!({"rank": 8, "use_dora": true}), replica(engine, None), None),
            (
                json!({"rank": 8, "bias": "lora_only"}),
                replica(vllm, None),
                Some("modules_to_save"),
            ),
        ] {
            let found = objection(Demands::read(&adapter), &server, "primer");
            assert_eq!(found.as_ref().map(|(field, _)| *field), field, "{adapter}");
            assert!(
                found
                    .is_none_or(|(_, message)| message.contains("`primer`") && !message.contains("10.0.0.7"))
            );
        }
    }
}
