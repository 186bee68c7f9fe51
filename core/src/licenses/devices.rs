//! Devices: what a license is activated on.
//!
//! Every change of a license's devices happens under the lock of its row, so that no more devices are activated than its
//! policy allows. A device that is activated again keeps its seat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel, QueryOrder, QuerySelect};
use serde_json::json;

use super::device_store::{self, of_license, remove};
use super::facts::{Device, DeviceMatching, Facts, LicenseFacts};
use super::load::load_license_facts;
use super::question::Question;
use super::requested::{self, Requested};
use super::resets::{self, NextReset};
use super::verdict::{Verdict, judge};
use super::verdict_code::VerdictCode;
use super::{License, record, store};
use crate::api_key_scopes::ApiKeyScope;
use crate::changes::{self, MAX_STALENESS};
use crate::entity::device::{Column, Entity};
use crate::entity::license;
use crate::events::EventData;
use crate::ids::{DeviceId, LicenseId};
use crate::page::{self, Page, PageRequest};
use crate::policy::{ExpiryBasis, PolicyTerms};
use crate::throttles::{self, Limit};
use crate::{Access, Caller, Core, Reason, Result, Scope, fingerprint::Fingerprint, plain_text, tx::Tx};

/// How many devices the refusal of an activation names.
const NAMED: u64 = 20;

/// A device to activate a license on.
#[derive(Clone, Debug)]
pub struct NewDevice {
    fingerprint: Fingerprint,
    name: Option<String>,
    platform: Option<String>,
    app_version: Option<String>,
}

impl NewDevice {
    /// Validates what an app says about its device. Refused with `VALIDATION_ERROR`.
    pub fn new(
        fingerprint: Fingerprint,
        name: Option<&str>,
        platform: Option<&str>,
        app_version: Option<&str>,
    ) -> Result<Self> {
        let line = |field, text: Option<&str>| text.map(|text| plain_text::line(field, text, 64)).transpose();
        Ok(Self {
            fingerprint,
            name: line("device.name", name)?,
            platform: line("device.platform", platform)?,
            app_version: line("device.appVersion", app_version)?,
        })
    }
}

impl NewDevice {
    /// Its fingerprint.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

/// The answer to an activation.
#[derive(Clone, Debug)]
pub struct Activation {
    /// `VALID` with the device, or why the license was not activated.
    pub verdict: Verdict,
    /// Whether the device is new, so that it takes a seat.
    pub created: bool,
    /// What helps the owner, if no seat is free.
    pub full: Option<FullLicense>,
    /// When the license was locked.
    at: Instant,
}

impl Activation {
    /// Call this after the answer was signed. Refused with `UNAVAILABLE` if that took so long that the license may have been
    /// revoked since; an activation can be repeated.
    pub fn require_recent(&self) -> Result<()> {
        if self.at.elapsed() < MAX_STALENESS { Ok(()) } else { Err(changes::stale()) }
    }
}

impl From<Verdict> for Activation {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, created: false, full: None, at: Instant::now() }
    }
}

/// What helps the owner of a license whose seats are all taken.
#[derive(Clone, Debug)]
pub struct FullLicense {
    /// Its devices, those seen last first; not all of a license with many.
    pub devices: Vec<Device>,
    /// When the owner may remove all of them.
    pub reset: NextReset,
}

/// Activates a license on a device. One that is recognized keeps its seat. Refused with `ACCESS_DENIED`, `REQUIRES_2FA`
/// or `VALIDATION_ERROR`; every reason of the license itself is a verdict.
pub async fn activate(core: &Core, caller: &Caller, wanted: &Requested, new: &NewDevice) -> Result<Activation> {
    let found = match requested::find(core, caller, ApiKeyScope::Activate, wanted).await? {
        Ok(found) => found,
        Err(verdict) => return Ok(verdict.into()),
    };
    let mut tx = Tx::begin(core).await?;
    let Some(license) = requested::lock(&tx, caller, &found).await? else {
        return Ok(Verdict::without_license(VerdictCode::NotFound, tx.now()).into());
    };
    let at = Instant::now();
    let mut seats = Seats::load(&tx, license, &new.fingerprint).await?;
    let verdict = seats.verdict(tx.now());
    // The later reasons are about what an activation changes, or about what the app does then.
    if verdict.code <= VerdictCode::DeviceBlocked {
        return Ok(verdict.into());
    }
    let known = seats.facts.device.device().cloned();
    let created = known.is_none();
    let device = match known {
        Some(known) => renew(&mut tx, caller, &seats.facts.license.license, &known, new).await?,
        None if seats.are_taken() => return seats.refuse(tx).await,
        None => seats.insert(&mut tx, caller, new).await?,
    };
    let now = tx.now();
    tx.commit().await?;
    let verdict = Verdict::of(VerdictCode::Valid, &seats.facts, &seats.asked, now);
    Ok(Activation { verdict: Verdict { device: Some(Arc::new(device)), ..verdict }, created, full: None, at })
}

/// A locked license and the device that wants a seat.
struct Seats {
    facts: Facts,
    asked: Question,
}

impl Seats {
    async fn load(tx: &Tx, license: License, seen: &Fingerprint) -> Result<Self> {
        let asked = Question { device: Some(seen.clone()), ..Question::default() };
        Ok(Self { facts: device_store::facts(tx, license, seen).await?, asked })
    }

    fn verdict(&self, now: DateTime<Utc>) -> Verdict {
        judge(Some(&self.facts), &self.asked, now)
    }

    fn are_taken(&self) -> bool {
        let LicenseFacts { terms, devices_used, .. } = &self.facts.license;
        terms.device_limit().is_some_and(|limit| *devices_used >= limit)
    }

    /// Refuses a device for which there is no seat. The event is recorded at most once an hour for a license.
    async fn refuse(self, mut tx: Tx) -> Result<Activation> {
        let LicenseFacts { license, terms, devices_used, .. } = &self.facts.license;
        let hourly = Limit::new(tx.core(), "device_limit", &license.id.to_string(), 1, Duration::from_hours(1));
        if throttles::try_acquire(&tx, &hourly).await? {
            let data = EventData::DeviceLimitReached { max: terms.max_devices, used: *devices_used };
            record(&mut tx, &Caller::System(Scope::of(license.tenant_id)), license, data);
        }
        let last_seen = of_license(license.id).order_by_desc(Column::LastSeenAt).order_by_desc(Column::Id);
        let devices = last_seen.limit(NAMED).all(tx.db()).await?;
        let reset = resets::next(&tx, license, terms).await?;
        let verdict = Verdict::of(VerdictCode::DeviceLimitExceeded, &self.facts, &self.asked, tx.now());
        tx.commit().await?;
        Ok(Activation { full: Some(FullLicense { devices, reset }), ..verdict.into() })
    }

    /// Takes a seat.
    async fn insert(&mut self, tx: &mut Tx, caller: &Caller, new: &NewDevice) -> Result<Device> {
        let (now, license) = (tx.now(), self.facts.license.license.clone());
        let device = Device {
            id: DeviceId(tx.core().ids.v7(now)),
            license_id: license.id,
            fingerprint: new.fingerprint.hash(tx.core().keys()),
            components: json!(new.fingerprint.component_hashes(tx.core().keys())),
            name: new.name.clone(),
            platform: new.platform.clone(),
            app_version: new.app_version.clone(),
            activated_at: now,
            last_seen_at: now,
        };
        tx.mark_changed(license.id);
        Entity::insert(device.clone().into_active_model()).exec_without_returning(tx.db()).await?;
        let activated = activated(tx, &license, &self.facts.license.terms).await?;
        let (from, state, device_id) = (license.state(now), activated.state(now), Some(device.id));
        record(tx, caller, &activated, EventData::LicenseActivated { from, state, device_id });
        self.facts.license.license = Arc::new(activated);
        self.facts.license.devices_used += 1;
        Ok(device)
    }
}

/// The license, activated on its first device.
async fn activated(tx: &Tx, license: &License, terms: &PolicyTerms) -> Result<License> {
    if license.activated_at.is_some() {
        return Ok(license.clone());
    }
    let begins = terms.expiry_basis == ExpiryBasis::FirstActivation && license.expires_at.is_none();
    let expires_at = if begins { terms.expiry_from(tx.now()) } else { license.expires_at };
    let lapses_at = if begins { terms.lapse(expires_at) } else { license.lapses_at };
    let activated_at = Some(tx.now());
    let changes = [
        (license::Column::ActivatedAt, activated_at.into()),
        (license::Column::ExpiresAt, expires_at.into()),
        (license::Column::LapsesAt, lapses_at.into()),
    ];
    store::update(tx, license.id, changes).await?;
    Ok(License { activated_at, expires_at, lapses_at, rev: license.rev + 1, ..license.clone() })
}

/// Records that a device was activated again, as it is now.
async fn renew(tx: &mut Tx, caller: &Caller, license: &License, known: &Device, new: &NewDevice) -> Result<Device> {
    let keys = tx.core().keys();
    let components = json!(new.fingerprint.component_hashes(keys));
    // An app that sends no components any more does not make the device forget them.
    let components = if components == json!({}) { known.components.clone() } else { components };
    let kept = |new: &Option<String>, known: &Option<String>| new.clone().or(known.clone());
    let device = Device {
        fingerprint: new.fingerprint.hash(keys),
        components,
        name: kept(&new.name, &known.name),
        platform: kept(&new.platform, &known.platform),
        app_version: kept(&new.app_version, &known.app_version),
        last_seen_at: tx.now(),
        ..known.clone()
    };
    Entity::update(device.clone().into_active_model().reset_all()).exec(tx.db()).await?;
    if (&device.fingerprint, &device.components) != (&known.fingerprint, &known.components) {
        record(tx, caller, license, EventData::LicenseChanged { fields: vec!["devices"] });
    }
    Ok(device)
}

/// The answer to a deactivation.
#[derive(Clone, Debug)]
pub struct Deactivation {
    /// What the license is worth on the device now.
    pub verdict: Verdict,
    /// The devices that were removed.
    pub devices: Vec<DeviceId>,
}

/// Removes the device that an app runs on. Without effect if the license is not activated on it. Refused with
/// `ACCESS_DENIED`, `REQUIRES_2FA` or `VALIDATION_ERROR`; a license that cannot be found is a verdict.
pub async fn deactivate(core: &Core, caller: &Caller, wanted: &Requested, seen: &Fingerprint) -> Result<Deactivation> {
    let without = |verdict| Deactivation { verdict, devices: Vec::new() };
    let found = match requested::find(core, caller, ApiKeyScope::Deactivate, wanted).await? {
        Ok(found) => found,
        Err(verdict) => return Ok(without(verdict)),
    };
    let mut tx = Tx::begin(core).await?;
    let Some(license) = requested::lock(&tx, caller, &found).await? else {
        return Ok(without(Verdict::without_license(VerdictCode::NotFound, tx.now())));
    };
    let mut seats = Seats::load(&tx, license.clone(), seen).await?;
    let Some(known) = seats.facts.device.device().cloned() else { return Ok(without(seats.verdict(tx.now()))) };
    let devices = remove(&tx, &license, Some(known.id)).await?;
    record_removed(&mut tx, caller, &license, &devices);
    seats.facts.device = DeviceMatching::Unknown;
    seats.facts.license.devices_used -= 1;
    let now = tx.now();
    tx.commit().await?;
    Ok(Deactivation { verdict: seats.verdict(now), devices })
}

/// Removes one or all devices of a license, for its owner or a manager. Returns the devices that were removed. Refused
/// with `NOT_FOUND`, `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn deactivate_by_owner(
    core: &Core,
    caller: &Caller,
    id: LicenseId,
    device: Option<DeviceId>,
) -> Result<(LicenseFacts, Vec<DeviceId>)> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    caller.require(Access::Own, &license)?;
    let devices = remove(&tx, &license, device).await?;
    record_removed(&mut tx, caller, &license, &devices);
    tx.commit_and_propagate(caller).await?;
    Ok((load_license_facts(core, license).await?, devices))
}

fn record_removed(tx: &mut Tx, caller: &Caller, license: &License, devices: &[DeviceId]) {
    if !devices.is_empty() {
        record(tx, caller, license, EventData::LicenseDeactivated { devices: devices.to_vec() });
    }
}

/// The devices of a license, those activated last first. Refused with `NOT_FOUND`, `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn list(core: &Core, caller: &Caller, id: LicenseId, page: &PageRequest) -> Result<Page<Device>> {
    let license = store::find(core, id).await?.ok_or_else(|| Reason::NoLicense.refusal())?;
    caller.require(Access::Read, &license)?;
    page::newest_first(core, of_license(id), Column::Id, &("devices", id), page).await
}
