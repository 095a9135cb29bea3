//! One page of rows, newest first.

use tunesmith_types::list::Page;

/// Rows of a page, and whether older ones follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows<T> {
    /// Newest first.
    pub rows: Vec<T>,
    /// Whether older rows follow.
    pub has_more: bool,
}

impl<T> Rows<T> {
    /// Takes rows of a query that asked for [`fetch_limit`] of them.
    pub(crate) fn cut<I>(mut rows: Vec<T>, page: &Page<I>) -> Self {
        let limit = usize::from(page.limit);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, has_more }
    }
}

/// One row more than the page holds tells whether another page follows.
pub(crate) fn fetch_limit<I>(page: &Page<I>) -> i64 {
    i64::from(page.limit) + 1
}
