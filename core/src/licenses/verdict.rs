//! The answer to "may this key be used?", computed from the license, the question and the clock.

use chrono::{DateTime, Utc};

use super::{License, LicenseState, state};
use crate::{Caller, Code, ids::ProductId};

/// The detail of `NOT_FOUND` for a license.
pub(super) const NO_SUCH_LICENSE: &str = "No such license.";

/// A validation request of an app.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The key as the user typed it.
    pub key: String,
    /// The expected product, if the API key covers several.
    pub product: Option<ProductId>,
}

/// The result of a validation, positive or negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `VALID`, or the first reason why the key cannot be used.
    pub code: Code,
    /// One sentence to show to the user.
    pub detail: String,
    /// The position of the error in a malformed key: a character, counted from 1.
    pub position: Option<usize>,
    /// The license and its state, if the caller may see it.
    pub license: Option<(License, LicenseState)>,
    /// When the license was checked.
    pub checked_at: DateTime<Utc>,
}

impl Verdict {
    /// A verdict that reveals no license.
    pub(crate) fn without_license(code: Code, now: DateTime<Utc>) -> Self {
        let detail = if code == Code::NotFound { NO_SUCH_LICENSE } else { code.description() };
        Self { code, detail: detail.to_owned(), position: None, license: None, checked_at: now }
    }
}

/// Checks in a fixed order of precedence. A license of another tenant, or of a product the API key does
/// not cover, is `NOT_FOUND`, so that its existence is not revealed.
#[must_use]
pub fn judge(license: Option<License>, caller: &Caller, wanted: Option<ProductId>, now: DateTime<Utc>) -> Verdict {
    let covers = |product: ProductId| caller.products.iter().any(|covered| covered.id == product);
    let visible = |l: &License| l.tenant_id == caller.scope.tenant() && covers(l.product_id);
    let Some(license) = license.filter(visible) else { return Verdict::without_license(Code::NotFound, now) };
    if wanted.is_some_and(|wanted| wanted != license.product_id) {
        return Verdict::without_license(Code::ProductMismatch, now);
    }
    let state = state(&license, now);
    let code = match state {
        LicenseState::Revoked => Code::Revoked,
        LicenseState::Expired => Code::Expired,
        LicenseState::Generated => Code::NotAssigned,
        LicenseState::Assigned | LicenseState::Active => Code::Valid,
    };
    Verdict { license: Some((license, state)), ..Verdict::without_license(code, now) }
}
