//! The one error type of the store, and the one place where a constraint's name becomes a domain error.

use std::str::FromStr;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row, or it is another organization's. Holds the word for it ("training job").
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The request contradicts what is stored; sending it again gives the same answer.
    #[error("{0}")]
    Conflict(Conflict),
    /// It would go, but not for a caller of this role.
    #[error("{0}")]
    Forbidden(Conflict),
    /// The caller no longer holds the job: it must stop, and none of its writes has had an effect.
    #[error("the lease on the job is lost")]
    LeaseLost,
    /// A newer Tunesmith has migrated this database.
    #[error(
        "the database schema is at version {found}, but this build knows it only up to {known}; use a newer build"
    )]
    SchemaTooNew {
        /// Version of the database.
        found: i64,
        /// Newest version of this build.
        known: i64,
    },
    /// The migrations have not been applied.
    #[error(
        "the database schema is at version {found}, but this build needs {known}; run `tunesmith migrate`"
    )]
    SchemaTooOld {
        /// Version of the database.
        found: i64,
        /// Newest version of this build.
        known: i64,
    },
    /// A migration failed.
    #[error("a migration failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The database URL does not parse.
    #[error("the database url is not valid")]
    Url(#[source] sqlx::Error),
    /// No connection, or the database asks to try again; the same call may succeed later.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A query failed.
    #[error("a database query failed")]
    Database(#[source] sqlx::Error),
    /// A stored value makes no sense to this build.
    #[error("the stored value of {column} makes no sense")]
    Corrupt {
        /// Which column.
        column: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A contradiction between a request and the stored rows, in words for the API's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Conflict {
    /// A stable code for programs.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<&'static str>,
    /// A sentence: what is wrong and how to mend it.
    pub message: String,
}

impl StoreError {
    /// A contradiction with the stored rows.
    pub(crate) fn conflict(
        code: &'static str,
        param: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self::Conflict(Conflict {
            code,
            param,
            message: message.into(),
        })
    }

    /// A change that the caller's role does not allow.
    pub(crate) fn forbidden(
        code: &'static str,
        param: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self::Forbidden(Conflict {
            code,
            param,
            message: message.into(),
        })
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database_error) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                _ => Self::Database(error),
            };
        };
        if let Some(conflict) = database_error.constraint().and_then(constraint_conflict) {
            return Self::Conflict(conflict);
        }
        match database_error.code().as_deref() {
            Some(code) if is_transient_code(code) => Self::Unavailable(error),
            _ => Self::Database(error),
        }
    }
}

/// Serialization failure, deadlock, too many connections, shutting down, starting up, read-only, disk full.
fn is_transient_code(code: &str) -> bool {
    code.starts_with("08")
        || code.starts_with("57P")
        || matches!(code, "40001" | "40P01" | "53300" | "53100" | "25006" | "55P03")
}

/// What a broken constraint means to the user.
fn constraint_conflict(name: &str) -> Option<Conflict> {
    let (code, param, message) = match name {
        "users_email_key" => (
            "email_taken",
            "email",
            "There is an account with this email address already; log in instead.",
        ),
        "base_models_name_key" => (
            "name_taken",
            "name",
            "There is a base model with this name already; choose another name.",
        ),
        "deployments_name_key" => (
            "name_taken",
            "name",
            "There is a deployment with this name already; promote a version to it, or choose another name.",
        ),
        "deployment_revisions_one_active"
        | "deployment_revisions_one_pending"
        | "deployment_revisions_number_key" => (
            "revision_conflict",
            "expected_number",
            "Another revision was made at the same time; read the deployment again and decide anew.",
        ),
        "jobs_dataset" => (
            "dataset_in_use",
            "id",
            "A training job was made from this dataset, so it stays.",
        ),
        "jobs_base_model_id_fkey"
        | "adapter_versions_base_model_id_fkey"
        | "deployments_base_model_id_fkey" => (
            "base_model_in_use",
            "id",
            "Jobs, adapter versions or deployments were made from this base model, so it stays.",
        ),
        _ => return None,
    };
    Some(Conflict {
        code,
        param: Some(param),
        message: message.to_owned(),
    })
}

/// Parses a stored text; what does not parse was written by another build, or by hand.
pub(crate) fn stored<T>(column: &'static str, text: &str) -> Result<T, StoreError>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|source| StoreError::Corrupt {
        column,
        source: Box::new(source),
    })
}

/// Parses a stored JSON value.
pub(crate) fn stored_json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    value: serde_json::Value,
) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|source| StoreError::Corrupt {
        column,
        source: Box::new(source),
    })
}

/// Parses a stored JSON value that may be absent.
pub(crate) fn stored_json_option<T: serde::de::DeserializeOwned>(
    column: &'static str,
    value: Option<serde_json::Value>,
) -> Result<Option<T>, StoreError> {
    value.map(|present| stored_json(column, present)).transpose()
}
