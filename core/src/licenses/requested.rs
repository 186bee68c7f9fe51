//! The license that a request names by its key, or by its id, if the caller may act on it.

use crate::api_key_scopes::ApiKeyScope;
use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::ids::LicenseId;
use crate::{Access, Caller, Code, Core, Error, Reason, Result, tx::Tx};

use super::test_keys::test_verdict;
use super::verdict::Verdict;
use super::verdict_code::VerdictCode;
use super::{License, store};

/// How a request names a license.
#[derive(Clone, Debug)]
pub enum Requested {
    /// By its key, as the user typed it.
    Key(String),
    /// By its id, for callers who are signed in: unlike the key, it is no secret.
    Id(LicenseId),
}

/// The license, or the verdict that says why there is none for this caller. A test key
/// gets its verdict. An app needs the scope, a user has to be the
/// owner or to manage the license.
pub(super) async fn find(
    core: &Core,
    caller: &Caller,
    scope: ApiKeyScope,
    wanted: &Requested,
) -> Result<std::result::Result<License, Verdict>> {
    let mut prefixes = Vec::new();
    if let Caller::App(app) = caller {
        app.require(scope)?;
        if let Requested::Key(text) = wanted
            && let Some(verdict) = test_verdict(app, text, core.clock.now())
        {
            return Ok(Err(verdict));
        }
        prefixes = app.products.iter().map(|product| product.prefix.clone()).collect();
    }
    let found = match (wanted, caller) {
        (Requested::Id(_), Caller::App(_)) => return Err(Reason::LicenseKeyRequired.refusal()),
        (Requested::Id(id), _) => store::find(core, *id).await?,
        (Requested::Key(text), _) => match LicenseKey::parse(text, &prefixes) {
            Err(why) => {
                return Ok(Err(Verdict::malformed(why, core.clock.now())));
            }
            Ok(key) => {
                let lookups = core.keys().macs(Purpose::LicenseLookup, &key.canonical());
                store::find_by_lookup(core, lookups).await?
            }
        },
    };
    match found {
        Some(license) if is_visible(caller, &license)? => Ok(Ok(license)),
        _ => Ok(Err(Verdict::without_license(VerdictCode::NotFound, core.clock.now()))),
    }
}

/// The license that was found, locked. `None` if its key or its owner was replaced meanwhile.
pub(super) async fn lock(tx: &Tx, caller: &Caller, found: &License) -> Result<Option<License>> {
    let license = store::lock(tx, found.id).await?;
    let is_same = license.key_lookup == found.key_lookup && is_visible(caller, &license)?;
    Ok(is_same.then_some(license))
}

/// Whether the caller may act on a license as its app, its owner or a manager.
pub(super) fn is_visible(caller: &Caller, license: &License) -> Result<bool> {
    match caller {
        Caller::App(app) => Ok(app.may_know(license)),
        _ => match caller.require(Access::Own, license) {
            Err(Error::Refused(refusal)) if refusal.code() == Code::NotFound => Ok(false),
            allowed => allowed.map(|()| true),
        },
    }
}
