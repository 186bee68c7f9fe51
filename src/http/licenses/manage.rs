//! The commands about one license, for its owner and those who manage it. Core decides who may do what.

use axum::extract::State;
use chrono::{DateTime, Utc};
use dca_core::ids::{LicenseId, ProductId, UserId};
use dca_core::licenses::{self, Change, LicenseFilter, LicenseState, NameChange, OwnTerms, Renewal};
use dca_core::precondition::IfMatch;
use dca_core::users::Recipient;
use dca_core::{Caller, DiscordUserId};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::details::{LicenseDetails, LicenseResult, LicenseWithKey, answer, answer_with_key};
use crate::App;
use crate::http::extract::{Authenticated, JsonBody, OptionalJson, PathParams, Query};
use crate::http::paging::{PageResult, PageView, Paging};
use crate::http::precondition::Precondition;
use crate::http::problem::{Problem, Refusals};
use crate::http::schemas;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, edit))
        .routes(routes!(assign))
        .routes(routes!(transfer))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(renew))
        .routes(routes!(revoke))
        .routes(routes!(rotate_key))
}

pub(crate) fn redemption() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(redeem))
}

async fn change(app: &App, caller: &Caller, id: Uuid, if_match: &IfMatch, change: Change) -> LicenseResult {
    let changed = licenses::change(&app.core, caller, LicenseId(id), if_match, change).await?;
    answer(&app.core, changed).await
}

/// Filters the list of licenses.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LicensesQuery {
    /// Only licenses of this user.
    #[param(nullable = false)]
    user_id: Option<Uuid>,
    /// Only licenses of this product.
    #[param(nullable = false)]
    product_id: Option<Uuid>,
    #[param(value_type = Option<schemas::LicenseState>, nullable = false)]
    state: Option<LicenseState>,
}

/// List licenses
///
/// Your own, newest first; with `userId` or `productId`, those that you manage. An API key with `licenses:read` gets those
/// of its products.
#[utoipa::path(get, path = "/licenses", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(LicensesQuery, Paging), responses((status = 200, body = PageView<LicenseDetails>), Refusals))]
pub(crate) async fn list(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    Query(LicensesQuery { user_id, product_id, state }): Query<LicensesQuery>,
    paging: Paging,
) -> PageResult<LicenseDetails> {
    let (user, product) = (user_id.map(UserId), product_id.map(ProductId));
    let filter = LicenseFilter { user, product, state, created_before: None };
    let page = licenses::list(&app.core, &caller, &filter, &paging.request).await?;
    let now = app.core.clock.now();
    Ok(paging.render(page.map(|facts| (facts, now))))
}

/// Retrieve a license
///
/// For its owner, those who manage it, and API keys with `licenses:read` for its product.
#[utoipa::path(get, path = "/licenses/{id}", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn get(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
) -> LicenseResult {
    answer(&app.core, licenses::show(&app.core, &caller, LicenseId(id)).await?).await
}

/// What to change. Absent members stay as they are.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EditRequest {
    /// A name of at most 255 characters; `null` removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    name: NameChange,
    /// A merge patch (RFC 7396): members that are `null` are removed. The result may have 16 KiB and 64 members, nested 4
    /// levels deep.
    #[serde(default)]
    metadata: Map<String, Value>,
}

/// A name that is given, even if it is `null`.
pub(crate) fn present<'de, D: Deserializer<'de>>(name: D) -> Result<NameChange, D::Error> {
    Ok(Option::deserialize(name)?.map_or(NameChange::Remove, NameChange::To))
}

/// Update a license
///
/// Changes its name and metadata.
#[utoipa::path(patch, path = "/licenses/{id}", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = EditRequest,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn edit(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(EditRequest { name, metadata }): JsonBody<EditRequest>,
) -> LicenseResult {
    let terms = OwnTerms::default();
    change(&app, &caller, id, &if_match, Change::Edit { name, metadata, terms }).await
}

/// Who gets the license: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RecipientRequest {
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    /// A Discord user ID. The user need not be known yet.
    #[schema(nullable = false, example = "80351110224678912")]
    discord_id: Option<String>,
}

impl RecipientRequest {
    fn recipient(self) -> Result<Recipient, Problem> {
        match (self.user_id, self.discord_id) {
            (Some(user), None) => Ok(Recipient::User(UserId(user))),
            (None, Some(account)) => {
                let id = account.parse().ok().filter(|id| (1..=i64::MAX).contains(id));
                let invalid = || Problem::invalid_field("discordId", "discordId must be a Discord user ID");
                id.map(|id| Recipient::Discord(DiscordUserId(id))).ok_or_else(invalid)
            }
            _ => Err(Problem::invalid_field("userId", "either userId or discordId is required")),
        }
    }
}

/// Assign a license
///
/// Gives an unassigned license to a user, and sends them its key.
#[utoipa::path(post, path = "/licenses/{id}/assign", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = RecipientRequest,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn assign(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(request): JsonBody<RecipientRequest>,
) -> LicenseResult {
    change(&app, &caller, id, &if_match, Change::Assign(request.recipient()?)).await
}

/// Transfer a license
///
/// Gives the license to another user with a new key, which is sent to them. Its devices are removed. The policy decides
/// whether owners may do this.
#[utoipa::path(post, path = "/licenses/{id}/transfer", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = RecipientRequest,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn transfer(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(request): JsonBody<RecipientRequest>,
) -> LicenseResult {
    change(&app, &caller, id, &if_match, Change::Transfer(request.recipient()?)).await
}

/// A license key to redeem.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RedeemRequest {
    /// The license key as it was received.
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    license_key: String,
}

/// Redeem a license key
///
/// Makes an unassigned license yours. Redeeming a key that is yours already changes nothing.
#[utoipa::path(post, path = "/licenses/redeem", tag = "licenses", security(("bearer" = [])),
    request_body = RedeemRequest, responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn redeem(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    JsonBody(RedeemRequest { license_key }): JsonBody<RedeemRequest>,
) -> LicenseResult {
    answer(&app.core, licenses::redeem(&app.core, &caller, &license_key).await?).await
}

/// Why a license is suspended or revoked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonRequest {
    /// One line of at most 200 characters.
    #[schema(example = "refunded")]
    pub(super) reason: String,
}

/// Suspend a license
///
/// Its key is not valid until the license is resumed.
#[utoipa::path(post, path = "/licenses/{id}/suspend", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = ReasonRequest,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn suspend(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(ReasonRequest { reason }): JsonBody<ReasonRequest>,
) -> LicenseResult {
    change(&app, &caller, id, &if_match, Change::Suspend { reason }).await
}

/// Resume a license
///
/// Ends its suspension. It is in the state before the suspension again.
#[utoipa::path(post, path = "/licenses/{id}/resume", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn resume(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
) -> LicenseResult {
    change(&app, &caller, id, &if_match, Change::Resume).await
}

/// How far to renew: one of the two, or neither for the duration of the policy.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewRequest {
    /// By this many seconds. The policy decides whether they begin now or at the expiry.
    #[schema(nullable = false, minimum = 1)]
    seconds: Option<i64>,
    /// Until this time.
    #[schema(nullable = false)]
    until: Option<DateTime<Utc>>,
}

/// Renew a license
///
/// Moves its expiry, also after it has expired.
#[utoipa::path(post, path = "/licenses/{id}/renew", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = Option<RenewRequest>,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn renew(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    OptionalJson(request): OptionalJson<RenewRequest>,
) -> LicenseResult {
    let renewal = match (request.seconds, request.until) {
        (None, None) => Renewal::Once,
        (Some(seconds @ 1..), None) => Renewal::Seconds(seconds),
        (None, Some(until)) => Renewal::Until(until),
        (Some(_), None) => return Err(Problem::invalid_field("seconds", "seconds must be at least 1")),
        (Some(_), Some(_)) => return Err(Problem::invalid_field("until", "send either seconds or until")),
    };
    change(&app, &caller, id, &if_match, Change::Renew(renewal)).await
}

/// Revoke a license
///
/// This is final. Its owner gets no new license while they keep the role or grant that entitled them.
#[utoipa::path(post, path = "/licenses/{id}/revoke", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = ReasonRequest,
    responses((status = 200, body = LicenseDetails), Refusals))]
pub(crate) async fn revoke(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(ReasonRequest { reason }): JsonBody<ReasonRequest>,
) -> LicenseResult {
    change(&app, &caller, id, &if_match, Change::Revoke { reason }).await
}

/// Replace the key of a license
///
/// The former key is unknown from then on. The new one is sent to the owner too.
#[utoipa::path(post, path = "/licenses/{id}/rotate-key", tag = "licenses",
    security(("api_key" = []), ("bearer" = [])), params(("id" = Uuid, Path), Precondition),
    responses((status = 200, body = LicenseWithKey), Refusals))]
pub(crate) async fn rotate_key(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
) -> LicenseResult<LicenseWithKey> {
    let rotated = licenses::change(&app.core, &caller, LicenseId(id), &if_match, Change::RotateKey).await?;
    answer_with_key(&app.core, rotated).await
}
