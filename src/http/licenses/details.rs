//! Licenses as shown to their owners and to those who manage them.

use axum::Json;
use axum::http::HeaderName;
use chrono::{DateTime, Utc};
use dca_core::Core;
use dca_core::licenses::{self, License, LicenseFacts};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::views::LicenseView;
use crate::http::{precondition::etag, problem::Problem};

/// A license, for its owner and for those who manage it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LicenseDetails {
    #[serde(flatten)]
    license: LicenseView,
    /// A name that helps to find it.
    name: Option<String>,
    /// Its owner. `null` if it is not assigned yet.
    user_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    assigned_at: Option<DateTime<Utc>>,
    activated_at: Option<DateTime<Utc>>,
    renewed_at: Option<DateTime<Utc>>,
    transferred_at: Option<DateTime<Utc>>,
    last_seen_at: Option<DateTime<Utc>>,
    suspended_at: Option<DateTime<Utc>>,
    suspend_reason: Option<String>,
    /// When it ends or is suspended, because nothing entitles its owner any more.
    sources_end_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    revoke_reason: Option<String>,
    /// The number of keys it has had.
    key_epoch: i32,
    /// The revision, which is also the `ETag`.
    rev: i64,
}

/// A license and its key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LicenseWithKey {
    /// The license key. Store it; it is not shown again.
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    key: String,
    #[serde(flatten)]
    license: LicenseDetails,
}

/// A license with its `ETag`, or a problem.
pub(crate) type LicenseResult<T = LicenseDetails> = Result<([(HeaderName, String); 1], Json<T>), Problem>;

/// The response with a license.
pub(crate) async fn answer(core: &Core, license: License) -> LicenseResult {
    let (rev, facts) = (license.rev, licenses::load_license_facts(core, license).await?);
    Ok((etag(rev), Json((facts, core.clock.now()).into())))
}

impl LicenseWithKey {
    /// New licenses with their keys.
    pub(crate) fn list(core: &Core, generated: Vec<LicenseFacts>) -> dca_core::Result<Vec<Self>> {
        let now = core.clock.now();
        let view = |facts: LicenseFacts| {
            Ok(Self { key: licenses::reveal_key(core, &facts.license)?, license: (facts, now).into() })
        };
        generated.into_iter().map(view).collect()
    }
}

/// The response with a license and its key.
pub(super) async fn answer_with_key(core: &Core, license: License) -> LicenseResult<LicenseWithKey> {
    let key = licenses::reveal_key(core, &license)?;
    let (etag, Json(license)) = answer(core, license).await?;
    Ok((etag, Json(LicenseWithKey { key, license })))
}

impl From<(LicenseFacts, DateTime<Utc>)> for LicenseDetails {
    fn from((facts, now): (LicenseFacts, DateTime<Utc>)) -> Self {
        let license = &facts.license;
        Self {
            license: LicenseView::of(&facts, now),
            name: license.name.clone(),
            user_id: license.user_id.map(|user| user.0),
            created_at: license.created_at,
            assigned_at: license.assigned_at,
            activated_at: license.activated_at,
            renewed_at: license.renewed_at,
            transferred_at: license.transferred_at,
            last_seen_at: license.last_seen_at,
            suspended_at: license.suspended_at,
            suspend_reason: license.suspend_reason.clone(),
            sources_end_at: license.sources_end_at,
            revoked_at: license.revoked_at,
            revoke_reason: license.revoke_reason.clone(),
            key_epoch: license.key_epoch,
            rev: license.rev,
        }
    }
}
