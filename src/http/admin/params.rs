//! Parameters that several administration routes have in common.

use dca_core::{GuildId, users::UserPage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::problem::Problem;

/// Selects a page of a list.
#[derive(Deserialize, IntoParams)]
pub(crate) struct PageQuery {
    /// The page number, starting at 1.
    #[param(nullable = false, minimum = 1, default = 1)]
    pub(crate) page: Option<u64>,
    /// The number of entries per page.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    pub(crate) limit: Option<u64>,
}

/// Validated `page` and `limit` parameters.
#[derive(Clone, Copy)]
pub(crate) struct PageParams {
    pub(crate) page: u64,
    pub(crate) size: u64,
}

impl PageParams {
    pub(crate) fn of(page: Option<u64>, size: Option<u64>) -> Result<Self, Problem> {
        let (page, size) = (page.unwrap_or(1), size.unwrap_or(20));
        if !(1..=1_000_000).contains(&page) {
            return Err(Problem::invalid_field("page", "page must be 1 to 1000000"));
        }
        if !(1..=100).contains(&size) {
            return Err(Problem::invalid_field("limit", "limit must be 1 to 100"));
        }
        Ok(Self { page, size })
    }
}

/// The position of a page in its list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pagination {
    /// The number of entries; of users, at most 10000 are counted.
    pub(crate) total: u64,
    page: u64,
    /// The number of pages, as far as the entries were counted.
    pub(crate) pages: u64,
    limit: u64,
    has_next: bool,
    has_prev: bool,
}

impl Pagination {
    pub(crate) fn of(PageParams { page, size }: PageParams, total: u64) -> Self {
        let pages = total.div_ceil(size);
        Self { total, page, pages, limit: size, has_next: page < pages, has_prev: page > 1 }
    }

    /// The position in a list of users, which is not counted to its end.
    pub(super) fn of_users(params: PageParams, listed: &UserPage) -> Self {
        let counted = Self::of(params, listed.total);
        let following = if listed.has_next { params.page + 1 } else { 0 };
        Self { pages: counted.pages.max(following), has_next: listed.has_next, ..counted }
    }
}

/// The reason for the change.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ReasonRequest {
    pub(super) reason: Option<String>,
}

pub(super) fn guild_id(text: &str) -> Result<GuildId, Problem> {
    let message = "guildId must be a Discord server ID, for example 80351110224678912";
    let invalid = |_| Problem::invalid_field("guildId", message);
    text.parse().map(GuildId).map_err(invalid)
}
