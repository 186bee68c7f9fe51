//! Administration routes: users, their sessions and roles, and the outbox.

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

pub(super) mod licenses;
pub(super) mod outbox;
pub(super) mod params;
pub(super) mod roles;
pub(super) mod sessions;
pub(super) mod users;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(users::list))
        .routes(routes!(users::get, users::change, users::delete))
        .routes(routes!(users::ban))
        .routes(routes!(users::unban))
        .routes(routes!(users::remove_second_factor))
        .routes(routes!(sessions::sessions, sessions::end_sessions))
        .routes(routes!(sessions::all_sessions))
        .routes(routes!(sessions::end_session))
        .routes(routes!(roles::roles))
        .routes(routes!(roles::assign_role))
        .routes(routes!(roles::revoke_role))
        .routes(routes!(outbox::outbox))
        .routes(routes!(outbox::replay))
}
