//! The answer to "may this key be used?": pure, from a license's facts, the question and the clock.

use chrono::{DateTime, Utc};

use super::{License, LicenseState, state};
use crate::{Caller, Code, ids::ProductId};

/// What `NOT_FOUND` means where a license is asked for.
pub(super) const NO_SUCH_LICENSE: &str = "No such license.";

/// What an app asks.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The key as the member typed it.
    pub key: String,
    /// The product it should be for, when the API key covers several.
    pub product: Option<ProductId>,
}

/// The answer. Negative answers are values too.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `VALID`, or the first reason against it.
    pub code: Code,
    /// One sentence for the member.
    pub detail: String,
    /// Where a malformed key is wrong: 1-based character.
    pub position: Option<usize>,
    /// The license and its state, when the caller may know of it.
    pub license: Option<(License, LicenseState)>,
    /// When this was true.
    pub checked_at: DateTime<Utc>,
}

impl Verdict {
    /// An answer about no license.
    pub(crate) fn without_license(code: Code, now: DateTime<Utc>) -> Self {
        let says = if code == Code::NotFound { NO_SUCH_LICENSE } else { code.description() };
        Self { code, detail: says.to_owned(), position: None, license: None, checked_at: now }
    }
}

/// Judges in fixed precedence. A license of another tenant, or of a product the API key does not
/// cover, is not found; nobody learns that it exists.
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
