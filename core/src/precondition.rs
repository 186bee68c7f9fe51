//! Preconditions of changes, so that two callers do not overwrite each other's changes.

use crate::{Code, Result};

/// The revisions that a caller expects (`If-Match`, RFC 9110, section 13.1.1). The default expects none in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IfMatch(Option<Vec<i64>>);

impl IfMatch {
    /// Expects one of these revisions. An empty list matches nothing.
    pub fn one_of(revisions: Vec<i64>) -> Self {
        Self(Some(revisions))
    }

    /// Checks the current revision, read under the lock of the row. Refused with `PRECONDITION_FAILED`.
    pub fn check(&self, rev: i64) -> Result<()> {
        match &self.0 {
            Some(expected) if !expected.contains(&rev) => Err(Code::PreconditionFailed.refusal()),
            _ => Ok(()),
        }
    }
}
