//! Inference processes that somebody else runs, and what they can hold. They belong to no organization: each serves
//! one base model for all who may use it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tunesmith_types::ids::{BaseModelId, ReplicaId};

use crate::{Store, StoreError, error::StoreError::Corrupt, refresh_tokens::interval};

/// What program a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// A text that names no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of replica; it is `engine` or `vllm`")]
pub struct UnknownReplicaKind(String);

impl std::str::FromStr for ReplicaKind {
    type Err = UnknownReplicaKind;

    fn from_str(text: &str) -> Result<Self, UnknownReplicaKind> {
        [Self::Engine, Self::Vllm]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownReplicaKind(text.to_owned()))
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
    /// Highest rank of an adapter that it loads, where known.
    pub max_rank: Option<u32>,
    /// Most adapters that it holds, where known.
    pub max_adapters: Option<u32>,
    /// When it was last known to be well.
    pub last_seen_at: DateTime<Utc>,
}

/// A replica that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewReplica<'a> {
    /// What it serves.
    pub base_model_id: BaseModelId,
    /// Where it answers, without a path.
    pub url: &'a str,
    /// What program it is.
    pub kind: ReplicaKind,
    /// Highest rank of an adapter that it loads, where known.
    pub max_rank: Option<u32>,
    /// Most adapters that it holds, where known.
    pub max_adapters: Option<u32>,
}

/// Registers a replica, or notes that the one at this address is well.
///
/// # Errors
/// Database errors only.
pub async fn register(store: &Store, new: &NewReplica<'_>) -> Result<ReplicaId, StoreError> {
    let id = sqlx::query_scalar!(
        "insert into replicas (id, base_model_id, url, kind, max_rank, max_adapters) values ($1, $2, $3, $4, $5, $6)
         on conflict (url) do update
         set base_model_id = excluded.base_model_id, kind = excluded.kind, max_rank = excluded.max_rank,
             max_adapters = excluded.max_adapters, last_seen_at = clock_timestamp()
         returning id",
        ReplicaId::new().uuid(),
        new.base_model_id.uuid(),
        new.url,
        new.kind.as_str(),
        new.max_rank.map(stored_count),
        new.max_adapters.map(stored_count),
    )
    .fetch_one(store.pool())
    .await?;
    Ok(ReplicaId::from_uuid(id))
}

fn stored_count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
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

/// The replicas of a base model that were well within `max_age`, the oldest first.
///
/// # Errors
/// Database errors only.
pub async fn of_base_model(
    store: &Store,
    base_model: BaseModelId,
    max_age: Duration,
) -> Result<Vec<Replica>, StoreError> {
    let rows = sqlx::query!(
        "select id, base_model_id, url, kind, max_rank, max_adapters, last_seen_at from replicas
         where base_model_id = $1 and last_seen_at > clock_timestamp() - $2::interval order by created_at, id",
        base_model.uuid(),
        interval(max_age),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = row.kind.parse().map_err(|error: UnknownReplicaKind| Corrupt {
                column: "replicas.kind",
                source: error.into(),
            })?;
            Ok(Replica {
                id: ReplicaId::from_uuid(row.id),
                base_model_id: BaseModelId::from_uuid(row.base_model_id),
                url: row.url,
                kind,
                max_rank: row.max_rank.and_then(|rank| rank.try_into().ok()),
                max_adapters: row.max_adapters.and_then(|most| most.try_into().ok()),
                last_seen_at: row.last_seen_at,
            })
        })
        .collect()
}
