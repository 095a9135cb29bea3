//! Inference processes. They belong to no organization: each serves one base model for all who may use it.

use chrono::{DateTime, Utc};
use tunesmith_types::ids::{BaseModelId, ReplicaId};

use crate::{Store, StoreError, error::StoreError::Corrupt, refresh_tokens::interval};

/// What program a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaKind {
    /// `tunesmith-engine`.
    Engine,
    /// A vLLM server.
    Vllm,
}

impl ReplicaKind {
    /// As stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Vllm => "vllm",
        }
    }
}

/// An inference process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Id.
    pub id: ReplicaId,
    /// What it serves.
    pub base_model_id: BaseModelId,
    /// Where it answers, without a path.
    pub url: String,
    /// What program it is.
    pub kind: ReplicaKind,
    /// When it was last known to be well.
    pub last_seen_at: DateTime<Utc>,
}

/// Registers a replica, or notes that the one at this address is well.
///
/// # Errors
/// Database errors only.
pub async fn register(
    store: &Store,
    base_model: BaseModelId,
    url: &str,
    kind: ReplicaKind,
) -> Result<ReplicaId, StoreError> {
    let id = sqlx::query_scalar!(
        "insert into replicas (id, base_model_id, url, kind) values ($1, $2, $3, $4)
         on conflict (url) do update
         set base_model_id = excluded.base_model_id, kind = excluded.kind, last_seen_at = clock_timestamp()
         returning id",
        ReplicaId::new().uuid(),
        base_model.uuid(),
        url,
        kind.as_str(),
    )
    .fetch_one(store.pool())
    .await?;
    Ok(ReplicaId::from_uuid(id))
}

/// Takes a replica away.
///
/// # Errors
/// Database errors only.
pub async fn remove(store: &Store, url: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from replicas where url = $1", url)
        .execute(store.pool())
        .await?;
    Ok(())
}

/// The replicas that were well within `max_age`, the oldest first.
///
/// # Errors
/// Database errors only.
pub async fn list(store: &Store, max_age: std::time::Duration) -> Result<Vec<Replica>, StoreError> {
    let rows = sqlx::query!(
        "select id, base_model_id, url, kind, last_seen_at from replicas
         where last_seen_at > clock_timestamp() - $1::interval order by created_at, id",
        interval(max_age),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = match row.kind.as_str() {
                "engine" => ReplicaKind::Engine,
                "vllm" => ReplicaKind::Vllm,
                other => {
                    return Err(Corrupt {
                        column: "replicas.kind",
                        source: other.to_owned().into(),
                    });
                }
            };
            Ok(Replica {
                id: ReplicaId::from_uuid(row.id),
                base_model_id: BaseModelId::from_uuid(row.base_model_id),
                url: row.url,
                kind,
                last_seen_at: row.last_seen_at,
            })
        })
        .collect()
}
