//! What the handlers of account routes have in common: extractors, views, results and derives.

pub(super) use axum::response::{IntoResponse, Response};
pub(super) use axum::{Json, http::StatusCode};
pub(super) use dca_core::ids::{SessionId, UserId};
pub(super) use dca_core::{Code, accounts::admin::Admin, users::Role};
pub(super) use serde::{Deserialize, Serialize};
pub(super) use serde_json::{Value, json};
pub(super) use utoipa::{IntoParams, ToSchema};
pub(super) use uuid::Uuid;

pub(super) use super::accounts::views::{MeView, Message, Names, RecoveryCodesView, RefreshTokenIn, Refusals};
pub(super) use super::accounts::views::{SessionView, SignUpView, TokensView, TotpSetupView, UserView, VerifiedView};
pub(super) use super::compat::dialect::Dialect;
pub(super) use super::cookies::{CookieKind, Cookies};
pub(super) use super::extract::{Client, CurrentUser, JsonBody, OptionalJson, PathParams, Query};
pub(super) use super::problem::{JsonResult, Problem, StatusResult};
pub(super) use super::schemas;
pub(super) use crate::App;
