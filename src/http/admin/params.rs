//! Parameters that several administration routes have in common.

use dca_core::{Code, GuildId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::http::problem::Problem;

/// Selects a page of a list.
#[derive(Deserialize, IntoParams)]
pub(crate) struct PageQuery {
    /// The page number, starting at 1.
    pub(super) page: Option<u64>,
    /// The number of entries per page, 1 to 100. Defaults to 20.
    pub(super) limit: Option<u64>,
}

/// Validated `page` and `limit` parameters.
#[derive(Clone, Copy)]
pub(super) struct PageParams {
    pub(super) page: u64,
    pub(super) size: u64,
}

impl PageParams {
    pub(super) fn of(page: Option<u64>, size: Option<u64>) -> Result<Self, Problem> {
        let (page, size) = (page.unwrap_or(1), size.unwrap_or(20));
        let valid = (1..=1_000_000).contains(&page) && (1..=100).contains(&size);
        let invalid = || Problem::new(Code::ValidationError, "page must be 1 to 1000000, and limit 1 to 100.");
        valid.then_some(Self { page, size }).ok_or_else(invalid)
    }
}

/// The reason for the change.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ReasonRequest {
    pub(super) reason: Option<String>,
}

pub(super) fn guild_id(text: &str) -> Result<GuildId, Problem> {
    let invalid =
        |_| Problem::new(Code::ValidationError, "guildId must be a Discord server ID, for example 80351110224678912.");
    text.parse().map(GuildId).map_err(invalid)
}
