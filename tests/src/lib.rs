//! End-to-end tests of Tunesmith; see `tests/end_to_end/`.
