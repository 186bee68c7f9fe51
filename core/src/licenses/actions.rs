//! What changes a license: an [`Action`], applied to a locked row and recorded with its event.

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use super::state::{Command, LicenseState};
use super::store;
use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::entity::license::Model as License;
use crate::events::{EventData, NewEvent};
use crate::ids::{LicenseId, UserId};
use crate::policy::{ExpiryBasis, PolicyTerms, TransferExpiry};
use crate::products::{Policy, Product};
use crate::{Caller, Core, Error, Result, tx::Tx};

/// A change to a license.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// Gives it to its first owner.
    Assign { to: UserId },
    /// Gives it to another owner, with another key, as if it were new.
    Transfer { to: UserId, key: NewKey },
    /// Suspends it.
    Suspend { since: DateTime<Utc>, reason: &'a str },
    /// Ends its suspension, so that it is in the state before.
    Resume,
    /// Moves its expiry.
    Renew { until: DateTime<Utc> },
    /// Revokes it.
    Revoke { reason: &'a str },
    /// Replaces its key.
    RotateKey { key: NewKey },
}

/// Applies an action to a locked license, and records what happened. The end of its sources can be the reason, and is no
/// obstacle here; callers' commands check the state with it first. Refused with `INVALID_TRANSITION`.
pub(crate) async fn apply(
    tx: &mut Tx,
    caller: &Caller,
    license: &License,
    terms: &PolicyTerms,
    action: Action<'_>,
) -> Result<License> {
    let now = tx.now();
    let from = License { sources_end_at: None, ..license.clone() }.allow(action.command(), now)?;
    let mut changed = license.clone();
    action.effect(&mut changed, from, terms, now);
    changed.rev += 1;
    store::save(tx, &changed).await?;
    if let Action::Transfer { .. } = action {
        store::delete_devices_and_leases(tx, license.id).await?;
    }
    record(tx, caller, &changed, action.event(from, license, &changed, now));
    Ok(changed)
}

impl Action<'_> {
    const fn command(&self) -> Command {
        match self {
            Self::Assign { .. } => Command::Assign,
            Self::Transfer { .. } => Command::Transfer,
            Self::Suspend { .. } => Command::Suspend,
            Self::Resume => Command::Resume,
            Self::Renew { .. } => Command::Renew,
            Self::Revoke { .. } => Command::Revoke,
            Self::RotateKey { .. } => Command::RotateKey,
        }
    }

    fn effect(&self, license: &mut License, from: LicenseState, terms: &PolicyTerms, now: DateTime<Utc>) {
        match self {
            Self::Assign { to } => {
                (license.user_id, license.assigned_at) = (Some(*to), Some(now));
                if terms.expiry_basis == ExpiryBasis::Assignment && license.expires_at.is_none() {
                    license.expires_at = terms.expiry_from(now);
                }
            }
            Self::Transfer { to, key } => {
                (license.user_id, license.assigned_at, license.transferred_at) = (Some(*to), Some(now), Some(now));
                (license.activated_at, license.first_valid_at, license.renewed_at) = (None, None, None);
                license.sources_end_at = None;
                key.replace_in(license);
                if terms.transfer_expiry == TransferExpiry::Reset {
                    license.expires_at = match terms.expiry_basis {
                        ExpiryBasis::Creation | ExpiryBasis::Assignment => terms.expiry_from(now),
                        ExpiryBasis::FirstActivation | ExpiryBasis::FirstValidation => None,
                        ExpiryBasis::FixedDate => license.expires_at,
                    };
                }
            }
            Self::Suspend { since, reason } => {
                (license.suspended_at, license.suspend_reason) = (Some(*since), Some((*reason).to_owned()));
            }
            Self::Resume => {
                if let Some(since) = license.suspended_at.filter(|_| terms.suspension_pauses_expiry) {
                    license.expires_at = license.expires_at.map(|at| at + (now - since).max(Duration::zero()));
                }
                (license.suspended_at, license.suspend_reason) = (None, None);
            }
            Self::Renew { until } => {
                (license.expires_at, license.lapse_seen_at) = (Some(*until), None);
                if from == LicenseState::Expired {
                    (license.renewed_at, license.first_valid_at) = (Some(now), None);
                    (license.suspended_at, license.suspend_reason) = (None, None);
                }
            }
            Self::Revoke { reason } => {
                (license.revoked_at, license.revoke_reason) = (Some(now), Some((*reason).to_owned()));
            }
            Self::RotateKey { key } => key.replace_in(license),
        }
        license.lapses_at = license.lapse(terms);
    }

    fn event(&self, from: LicenseState, before: &License, after: &License, now: DateTime<Utc>) -> EventData {
        let state = after.state(now);
        match self {
            Self::Assign { .. } => EventData::LicenseAssigned { from, state },
            Self::Transfer { .. } => EventData::LicenseTransferred { from, state, from_user_id: before.user_id },
            Self::Suspend { reason, .. } => EventData::LicenseSuspended { from, state, reason: (*reason).to_owned() },
            Self::Resume => EventData::LicenseResumed { from, state },
            Self::Renew { .. } => EventData::LicenseRenewed { from, state, expires_at: after.expires_at },
            Self::Revoke { reason } => {
                EventData::LicenseRevoked { from, state, reason: (*reason).to_owned(), bulk: None }
            }
            Self::RotateKey { .. } => EventData::KeyRotated { key_epoch: after.key_epoch },
        }
    }
}

/// A key to store.
#[derive(Debug)]
pub(crate) struct NewKey {
    lookup: Vec<u8>,
    sealed: Vec<u8>,
    hint: String,
}

impl NewKey {
    /// Generates a key for a license of a product.
    pub(crate) fn generate(core: &Core, license: LicenseId, product: &Product) -> Self {
        let key = LicenseKey::new(&product.prefix, core.ids.v4());
        Self {
            lookup: core.keys().mac(Purpose::LicenseLookup, &key.canonical()),
            sealed: core.keys().seal(&core.ids, Purpose::LicenseSeal, license.0, &key.display(&product.prefix)),
            hint: key.hint(&product.prefix),
        }
    }

    fn replace_in(&self, license: &mut License) {
        (license.key_lookup, license.key_sealed) = (self.lookup.clone(), self.sealed.clone());
        license.key_hint.clone_from(&self.hint);
        license.key_epoch += 1;
    }
}

/// What licenses to issue.
#[derive(Clone, Copy)]
pub(crate) struct NewLicenses<'a> {
    pub(crate) product: &'a Product,
    pub(crate) policy: &'a Policy,
    /// Who gets it. Only one license can be issued to a user.
    pub(crate) owner: Option<UserId>,
    pub(crate) name: Option<&'a str>,
    pub(crate) metadata: &'a Value,
    /// When they expire, whatever the policy says.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) count: usize,
}

/// Issues a license under a policy; assigns it at once if there is an owner.
pub(crate) async fn issue(
    tx: &mut Tx,
    caller: &Caller,
    product: &Product,
    policy: &Policy,
    owner: Option<UserId>,
) -> Result<License> {
    let metadata = &json!({});
    let new = NewLicenses { product, policy, owner, name: None, metadata, expires_at: None, count: 1 };
    let issued = issue_all(tx, caller, new).await?.pop();
    issued.ok_or_else(|| Error::Internal("no license was issued".to_owned()))
}

/// Issues licenses, and records them.
pub(crate) async fn issue_all(tx: &mut Tx, caller: &Caller, new: NewLicenses<'_>) -> Result<Vec<License>> {
    let (core, now) = (tx.core().clone(), tx.now());
    let licenses: Vec<License> = (0..new.count).map(|_| new.license(&core, now)).collect();
    store::insert_all(tx, &licenses).await?;
    for license in &licenses {
        let (state, product_id, bulk) = (LicenseState::Generated, new.product.id, bulk(licenses.len()));
        let created = EventData::LicenseCreated { state, product_id, bulk };
        record(tx, caller, license, created);
        if license.user_id.is_some() {
            let (from, state) = (LicenseState::Generated, LicenseState::Assigned);
            record(tx, caller, license, EventData::LicenseAssigned { from, state });
        }
    }
    Ok(licenses)
}

impl NewLicenses<'_> {
    fn license(&self, core: &Core, now: DateTime<Utc>) -> License {
        let (id, terms) = (LicenseId(core.ids.v7(now)), &self.policy.terms);
        let assigned_at = self.owner.map(|_| now);
        let key = NewKey::generate(core, id, self.product);
        let by_terms = match terms.expiry_basis {
            ExpiryBasis::FixedDate => terms.expires_at,
            ExpiryBasis::Creation => terms.expiry_from(now),
            ExpiryBasis::Assignment => assigned_at.and_then(|assigned_at| terms.expiry_from(assigned_at)),
            ExpiryBasis::FirstActivation | ExpiryBasis::FirstValidation => None,
        };
        let expires_at = self.expires_at.or(by_terms);
        License {
            id,
            tenant_id: self.product.tenant_id,
            product_id: self.product.id,
            policy_id: self.policy.id,
            user_id: self.owner,
            name: self.name.map(str::to_owned),
            metadata: self.metadata.clone(),
            key_lookup: key.lookup,
            key_sealed: key.sealed,
            key_hint: key.hint,
            key_epoch: 1,
            created_at: now,
            assigned_at,
            activated_at: None,
            first_valid_at: None,
            last_seen_at: None,
            renewed_at: None,
            transferred_at: None,
            expires_at,
            lapses_at: terms.lapse(expires_at),
            lapse_seen_at: None,
            suspended_at: None,
            suspend_reason: None,
            on_source_lost: terms.on_source_lost,
            sources_end_at: None,
            revoked_at: None,
            revoke_reason: None,
            rev: 1,
        }
    }
}

/// What events about one of so many licenses say.
pub(super) fn bulk(count: usize) -> Option<usize> {
    (count > 1).then_some(count)
}

/// Records an event about a license.
pub(crate) fn record(tx: &mut Tx, caller: &Caller, license: &License, data: EventData) {
    let event = NewEvent::tenant(license.tenant_id, caller.actor(), data);
    tx.record(NewEvent { subject: license.user_id, license: Some(license.id), ..event });
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn key() -> NewKey {
        NewKey { lookup: vec![1], sealed: vec![2], hint: "GOLD-…-1234".to_owned() }
    }

    fn actions() -> Vec<Action<'static>> {
        let (to, until) = (UserId(Uuid::max()), NOW + Duration::days(30));
        vec![
            Action::Assign { to },
            Action::Transfer { to, key: key() },
            Action::Suspend { since: NOW, reason: "test" },
            Action::Resume,
            Action::Renew { until },
            Action::Revoke { reason: "test" },
            Action::RotateKey { key: key() },
        ]
    }

    #[test]
    fn each_allowed_action_leads_to_its_state() {
        let terms = PolicyTerms::default();
        for action in actions() {
            for &from in LicenseState::ALL {
                let mut license = License::in_state(from, NOW);
                if license.allow(action.command(), NOW).is_err() {
                    continue;
                }
                let before = license.clone();
                action.effect(&mut license, from, &terms, NOW);
                let expected = match (&action, from) {
                    (Action::Assign { .. } | Action::Transfer { .. }, _) => LicenseState::Assigned,
                    (Action::Suspend { .. }, _) => LicenseState::Suspended,
                    (Action::Resume, _) => LicenseState::Active,
                    (Action::Renew { .. }, LicenseState::Expired) => LicenseState::Renewed,
                    (Action::Revoke { .. }, _) => LicenseState::Revoked,
                    (Action::Renew { .. } | Action::RotateKey { .. }, from) => from,
                };
                assert_eq!(license.state(NOW), expected, "{action:?} {from}");
                let event = action.event(from, &before, &license, NOW);
                if !matches!(action, Action::RotateKey { .. }) {
                    let states = [event.before().unwrap()["state"].clone(), event.after().unwrap()["state"].clone()];
                    assert_eq!(states, [json!(from), json!(expected)], "{action:?}");
                }
            }
        }
    }

    #[test]
    fn a_resumed_license_is_in_the_state_before() {
        for before in [LicenseState::Assigned, LicenseState::Activated, LicenseState::Active, LicenseState::Renewed] {
            for pauses in [false, true] {
                let terms = PolicyTerms { suspension_pauses_expiry: pauses, ..PolicyTerms::default() };
                let expires_at = Some(NOW + Duration::days(10));
                let mut license = License { expires_at, lapses_at: expires_at, ..License::in_state(before, NOW) };
                Action::Suspend { since: NOW, reason: "test" }.effect(&mut license, before, &terms, NOW);
                let later = NOW + Duration::days(4);
                Action::Resume.effect(&mut license, LicenseState::Suspended, &terms, later);
                let shifted = NOW + Duration::days(if pauses { 14 } else { 10 });
                assert_eq!((license.expires_at, license.lapses_at), (Some(shifted), Some(shifted)), "{before}");
                assert_eq!((license.state(later), license.suspend_reason), (before, None), "{pauses}");
            }
        }
    }

    #[test]
    fn a_transferred_license_is_as_new() {
        let to = UserId(Uuid::max());
        let (duration_seconds, old) = (Some(3_600), Some(NOW + Duration::days(1)));
        let (new, keep, reset) = (Some(NOW + Duration::hours(1)), TransferExpiry::Keep, TransferExpiry::Reset);
        for (transfer_expiry, expiry_basis, expires_at) in [
            (keep, ExpiryBasis::Assignment, old),
            (reset, ExpiryBasis::Assignment, new),
            (reset, ExpiryBasis::Creation, new),
            (reset, ExpiryBasis::FirstActivation, None),
            (reset, ExpiryBasis::FixedDate, old),
        ] {
            let terms = PolicyTerms { duration_seconds, expiry_basis, transfer_expiry, ..PolicyTerms::default() };
            let mut license = License { expires_at: old, ..License::in_state(LicenseState::Renewed, NOW) };
            Action::Transfer { to, key: key() }.effect(&mut license, LicenseState::Renewed, &terms, NOW);
            assert_eq!((license.expires_at, license.lapses_at), (expires_at, expires_at), "{expiry_basis}");
            assert_eq!((license.user_id, license.key_epoch, &*license.key_hint), (Some(to), 2, "GOLD-…-1234"));
            assert_eq!(license.state(NOW), LicenseState::Assigned);
        }
    }
}
