//! Cursor pages as OpenAI's API has them: newest first, `after` names the last id of the page before.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::ParameterError;

/// Rows of a page when the caller does not say.
pub const DEFAULT_LIMIT: u16 = 20;
/// Most rows of a page.
pub const MAX_LIMIT: u16 = 100;

/// `?after=<id>&limit=<1..100>`, as it comes in.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The `last_id` of the page before; absent for the first page.
    pub after: Option<String>,
    /// Rows of the page, 1 to 100 (20 when absent).
    pub limit: Option<u16>,
}

/// A checked page request. `I` is the typed id of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<I> {
    /// Rows older than this one; `None` begins with the newest.
    pub after: Option<I>,
    /// Rows of the page, 1 to 100.
    pub limit: u16,
}

impl<I> Default for Page<I> {
    fn default() -> Self {
        Self {
            after: None,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl PageQuery {
    /// Checks the bounds and the kind of the cursor.
    ///
    /// # Errors
    /// `limit` outside 1 to 100, or `after` that is no id of the listed kind.
    pub fn parse<I: std::str::FromStr>(&self) -> Result<Page<I>, ParameterError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ParameterError::new(
                "limit",
                format!("`limit` must be from 1 to {MAX_LIMIT}; {limit} was given."),
            ));
        }
        let after = match self.after.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ParameterError::new(
                    "after",
                    "`after` must be the `last_id` of the page before.".to_owned(),
                )
            })?),
        };
        Ok(Page { after, limit })
    }
}

/// One page of rows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The rows, newest first.
    pub data: Vec<T>,
    /// Id of the first row; null on an empty page.
    pub first_id: Option<String>,
    /// Id of the last row, which `after` of the next page takes; null on an empty page.
    pub last_id: Option<String>,
    /// Whether older rows follow.
    pub has_more: bool,
}

impl<T> List<T> {
    /// A page of `data`; `id` reads a row's id.
    #[must_use]
    pub fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> String) -> Self {
        let first_id = data.first().map(&id);
        let last_id = data.last().map(&id);
        Self {
            object: "list".to_owned(),
            data,
            first_id,
            last_id,
            has_more,
        }
    }
}
