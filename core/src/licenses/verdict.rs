//! The answer to "may this key be used?", computed from the license, the question and the clock.

use chrono::{DateTime, Utc};

use super::state::{LicenseFacts, LicenseState};
use crate::{AppCaller, crypto::license_key::Malformed, ids::ProductId, string_enum::string_enum};

string_enum! {
    /// The codes of verdicts. Public and stable.
    VerdictCode {
        /// The key may be used.
        Valid => "VALID",
        /// The text is not a license key.
        MalformedKey => "MALFORMED_KEY",
        /// No license has this key, or the caller may not know of it.
        NotFound => "NOT_FOUND",
        /// The license is for another product.
        ProductMismatch => "PRODUCT_MISMATCH",
        /// The license was revoked.
        Revoked => "REVOKED",
        /// The license has expired.
        Expired => "EXPIRED",
        /// The license is not assigned to anyone.
        NotAssigned => "NOT_ASSIGNED",
    }
}

/// A validation request of an app.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The key as the user typed it.
    pub key: String,
    /// The expected product, if the API key covers several.
    pub product: Option<ProductId>,
}

/// The result of a validation, positive or negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `VALID`, or the first reason why the key cannot be used.
    pub code: VerdictCode,
    /// What is wrong with a malformed key.
    pub malformed: Option<Malformed>,
    /// The license and its state, if the caller may see it.
    pub license: Option<(LicenseFacts, LicenseState)>,
    /// When the license was checked.
    pub checked_at: DateTime<Utc>,
}

impl Verdict {
    /// A verdict that reveals no license.
    pub(crate) fn without_license(code: VerdictCode, now: DateTime<Utc>) -> Self {
        Self { code, malformed: None, license: None, checked_at: now }
    }
}

/// Checks in a fixed order of precedence. A license of another tenant, or of a product the API key does not
/// cover, is `NOT_FOUND`, so that its existence is not revealed.
pub fn judge(facts: Option<LicenseFacts>, app: &AppCaller, wanted: Option<ProductId>, now: DateTime<Utc>) -> Verdict {
    let covers = |product: ProductId| app.products.iter().any(|covered| covered.id == product);
    let is_visible = |facts: &LicenseFacts| facts.tenant == app.scope.tenant() && covers(facts.product);
    let Some(facts) = facts.filter(is_visible) else { return Verdict::without_license(VerdictCode::NotFound, now) };
    if wanted.is_some_and(|wanted| wanted != facts.product) {
        return Verdict::without_license(VerdictCode::ProductMismatch, now);
    }
    let state = facts.state(now);
    let code = match state {
        LicenseState::Revoked => VerdictCode::Revoked,
        LicenseState::Expired => VerdictCode::Expired,
        LicenseState::Generated => VerdictCode::NotAssigned,
        LicenseState::Assigned | LicenseState::Active => VerdictCode::Valid,
    };
    Verdict { license: Some((facts, state)), ..Verdict::without_license(code, now) }
}
