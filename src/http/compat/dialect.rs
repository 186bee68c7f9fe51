//! What differs between the systems whose clients call the account routes: cookies, error format, and the names of
//! values. Handlers render native views; a [`Dialect`] adds the names that its clients read.

use axum::{Json, Router, extract::FromRequestParts, http::StatusCode, http::request::Parts};
use dca_core::{Code, Core, users::User};
use serde_json::{Value, json};

use crate::http::accounts::views::{Names, RecoveryCodesView, RefreshTokenIn, SignUpView, TokensView};
use crate::http::accounts::views::{TotpSetupView, UserView};
use crate::http::problem::{JsonResult, Problem};
use crate::{App, http::cookies::CookieKind, http::cookies::UsableSessions};

/// The dialect of a route.
#[derive(Clone, Copy)]
pub(crate) struct Dialect {
    pub(crate) system: &'static Conventions,
    all: &'static [&'static Conventions],
}

/// The conventions of a system, an earlier one or this. The functions return a JSON object with the members to add, or `null`.
pub(crate) struct Conventions {
    pub(super) routes: Routes,
    /// Its license routes, given the native ones.
    pub(super) licenses: fn(&Router) -> Router<App>,
    pub(crate) refresh_cookie: CookieKind,
    pub(crate) refresh_token_in: RefreshTokenIn,
    /// Whether bodies may be form-encoded instead of JSON.
    pub(crate) accepts_forms: bool,
    /// The paths on which clients send the refresh cookie without `Origin` and CSRF token.
    pub(super) cookie_without_origin: &'static [&'static str],
    /// A header with the client's own ID of the request, which is returned in responses and errors.
    pub(super) correlation_header: Option<&'static str>,
    /// The status of an error, where it differs.
    pub(super) status: fn(Code) -> Option<StatusCode>,
    /// Members of an error with this correlation ID. `code` replaces the native one.
    pub(super) error: fn(&Problem, &str) -> Value,
    pub(super) sign_up: fn(&SignUpView) -> Value,
    pub(super) user: fn(&UserView) -> Value,
    pub(super) tokens: fn(&TokensView) -> Value,
    pub(super) totp_setup: fn(&TotpSetupView) -> Value,
    pub(super) recovery_codes: fn(&RecoveryCodesView) -> Value,
}

pub(super) enum Routes {
    Native,
    /// The same handlers under other paths.
    Own(fn() -> Router<App>),
}

/// The conventions where no earlier system differs.
pub(super) const NATIVE: Conventions = Conventions {
    routes: Routes::Native,
    licenses: |_| Router::new(),
    refresh_cookie: CookieKind::Refresh,
    refresh_token_in: RefreshTokenIn::Cookie,
    accepts_forms: false,
    cookie_without_origin: &[],
    correlation_header: None,
    status: |_| None,
    error: |_, _| Value::Null,
    sign_up: |_| Value::Null,
    user: |_| Value::Null,
    tokens: |_| Value::Null,
    totp_setup: |_| Value::Null,
    recovery_codes: |_| Value::Null,
};

impl Dialect {
    pub(super) const fn new(system: &'static Conventions, all: &'static [&'static Conventions]) -> Self {
        Self { system, all }
    }

    pub(crate) fn of(parts: &Parts) -> Self {
        parts.extensions.get().copied().unwrap_or(Self::new(&NATIVE, &[]))
    }

    /// The refresh cookies of all dialects, starting with this one.
    pub(crate) fn refresh_cookies(self) -> Vec<CookieKind> {
        let mut cookies = vec![self.system.refresh_cookie];
        for cookie in [CookieKind::Refresh].into_iter().chain(self.all.iter().map(|system| system.refresh_cookie)) {
            if !cookies.contains(&cookie) {
                cookies.push(cookie);
            }
        }
        cookies
    }

    /// The cookies that may authenticate a request to this path without `Origin` and CSRF token.
    pub(crate) fn session_without_origin(self, path: &str) -> UsableSessions {
        let is_accepted = self.system.cookie_without_origin.contains(&path);
        if is_accepted { UsableSessions::Only(self.system.refresh_cookie) } else { UsableSessions::None }
    }

    /// Adds the names of this dialect, as do the functions for the other views.
    pub(crate) fn sign_up(self, mut view: SignUpView) -> SignUpView {
        view.names = self.names(|system| (system.sign_up)(&view));
        view
    }

    pub(crate) fn user(self, mut view: UserView) -> UserView {
        view.names = self.names(|system| (system.user)(&view));
        view
    }

    pub(crate) async fn user_view(self, core: &Core, user: User) -> JsonResult<UserView> {
        Ok(Json(self.user(UserView::of(core, user).await?)))
    }

    pub(crate) fn tokens(self, mut view: TokensView) -> TokensView {
        view.names = self.names(|system| (system.tokens)(&view));
        view.user = self.user(view.user);
        view
    }

    pub(crate) fn totp_setup(self, mut view: TotpSetupView) -> TotpSetupView {
        view.names = self.names(|system| (system.totp_setup)(&view));
        view
    }

    pub(crate) fn recovery_codes(self, mut view: RecoveryCodesView) -> RecoveryCodesView {
        view.names = self.names(|system| (system.recovery_codes)(&view));
        view
    }

    /// The native routes have the names of every system, because clients of each of them call them.
    fn names(self, of: impl Fn(&Conventions) -> Value) -> Names {
        let systems = match self.system.routes {
            Routes::Native => self.all,
            Routes::Own(_) => &[self.system],
        };
        let objects = systems.iter().filter_map(|system| match of(system) {
            Value::Object(members) => Some(members),
            _ => None,
        });
        objects.flatten().collect()
    }
}

impl<S: Sync> FromRequestParts<S> for Dialect {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts))
    }
}

/// The `message` of an error: the problem's detail; for invalid fields, an array with a message for each.
pub(super) fn message(problem: &Problem) -> Value {
    match problem.code {
        Code::ValidationError if problem.errors.is_empty() => json!([problem.detail]),
        Code::ValidationError => problem.errors.iter().map(|error| error.message.as_str()).collect(),
        _ => json!(problem.detail),
    }
}
