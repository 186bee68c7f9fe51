//! Resets: the owner of a license removes all of its devices, such as those that were lost. A ledger of them lets owners
//! wait between two, so that a license cannot go around.

use chrono::{DateTime, Duration, Utc};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};

use super::facts::LicenseFacts;
use super::load::load_license_facts;
use super::state::Command;
use super::{License, device_store, record, store};
use crate::entity::device_reset::{Column, Entity, Model as Reset};
use crate::events::EventData;
use crate::ids::{DeviceId, LicenseId};
use crate::policy::{PolicyTerms, ResetKind};
use crate::{Access, Caller, Core, Reason, Result, tx::Tx};

/// The period in which the resets of an owner are counted.
const PERIOD: Duration = Duration::days(30);

/// The next reset by the owner of a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextReset {
    kind: ResetKind,
    /// When it is possible. `None`: never.
    pub available_at: Option<DateTime<Utc>>,
}

/// Removes all devices of a license. Managers do not wait, and their resets are not counted. Returns the devices that
/// were removed, and when the owner may do it again. Refused with `RESET_COOLDOWN`, `CONFLICT` if the policy allows
/// no more, `INVALID_TRANSITION`, `NOT_FOUND`, `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn reset(core: &Core, caller: &Caller, id: LicenseId) -> Result<(LicenseFacts, Vec<DeviceId>, NextReset)> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    caller.require(Access::Own, &license)?;
    license.allow(Command::ResetDevices, tx.now())?;
    let terms = device_store::terms(&tx, &license).await?;
    let next = next(&tx, &license, &terms).await?;
    let is_forced = caller.require(Access::Manage, &license).is_ok();
    let devices = device_store::remove(&tx, &license, None).await?;
    if devices.is_empty() {
        return Ok((load_license_facts(core, license).await?, devices, next));
    }
    if !is_forced {
        next.require(tx.now())?;
    }
    let kind = if is_forced { ResetKind::Forced } else { next.kind };
    let count = i32::try_from(devices.len()).unwrap_or(i32::MAX);
    let (id, actor) = (tx.core().ids.v7(tx.now()), caller.actor().to_string());
    let row = Reset { id, license_id: license.id, kind, actor, devices: count, at: tx.now() };
    Entity::insert(row.into_active_model()).exec_without_returning(tx.db()).await?;
    record(&mut tx, caller, &license, EventData::DeviceReset { kind, devices: devices.clone() });
    let next = self::next(&tx, &license, &terms).await?;
    tx.commit_and_propagate(caller).await?;
    Ok((load_license_facts(core, license).await?, devices, next))
}

impl NextReset {
    /// Refused with `RESET_COOLDOWN` if it is later, with `CONFLICT` if there is none.
    fn require(self, now: DateTime<Utc>) -> Result<()> {
        let available_at = self.available_at.ok_or_else(|| Reason::NoResetsLeft.refusal())?;
        match (available_at - now).to_std() {
            Ok(wait) if !wait.is_zero() => Err(Reason::ResetNotYet { available_at }.retry_after(wait)),
            _ => Ok(()),
        }
    }
}

/// The next reset of a locked license by its owner.
pub(super) async fn next(tx: &Tx, license: &License, terms: &PolicyTerms) -> Result<NextReset> {
    let by_owner = Entity::find().filter(Column::LicenseId.eq(license.id)).filter(Column::Kind.ne(ResetKind::Forced));
    let past = by_owner.order_by_desc(Column::At).all(tx.db()).await?;
    let past: Vec<(ResetKind, DateTime<Utc>)> = past.into_iter().map(|reset| (reset.kind, reset.at)).collect();
    Ok(next_after(&past, license.activated_at, terms, tx.now()))
}

/// The next reset by the owner, after those in the past, newest first. Without any, the owner waits from the activation.
fn next_after(
    past: &[(ResetKind, DateTime<Utc>)],
    activated_at: Option<DateTime<Utc>>,
    terms: &PolicyTerms,
    now: DateTime<Utc>,
) -> NextReset {
    if past.is_empty() && terms.first_reset_free {
        return NextReset { kind: ResetKind::Free, available_at: Some(now) };
    }
    let cooldown = Duration::seconds(terms.reset_cooldown_seconds);
    let last = past.first().map(|(_, at)| *at).or(activated_at);
    let waited = last.map_or(Some(now), |last| last.checked_add_signed(cooldown));
    let counted: Vec<_> =
        past.iter().filter(|(kind, at)| *kind == ResetKind::SelfService && *at + PERIOD > now).collect();
    // The reset that has to leave the period first; `None` if the policy allows none at all.
    let allowed = usize::try_from(terms.resets_per_30_days).unwrap_or(usize::MAX);
    let quota = allowed.checked_sub(1).map(|index| counted.get(index).map_or(now, |(_, at)| *at + PERIOD));
    let available_at = waited.zip(quota).map(|(waited, quota)| waited.max(quota).max(now));
    NextReset { kind: ResetKind::SelfService, available_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_reset_waits_for_the_cooldown_and_for_the_period() {
        use ResetKind::{Free, SelfService};
        let day = |day: i64| DateTime::UNIX_EPOCH + Duration::days(day);
        let terms = PolicyTerms { resets_per_30_days: 2, ..PolicyTerms::default() };
        let waiting = PolicyTerms { first_reset_free: false, ..terms.clone() };
        let never = PolicyTerms { resets_per_30_days: 0, ..terms.clone() };
        // The terms, past resets, today, and the expected next reset, in days. The cooldown is a week.
        for (terms, past, today, kind, expected) in [
            (&terms, &[][..], 1, Free, Some(1)),
            (&waiting, &[][..], 1, SelfService, Some(7)),
            (&waiting, &[][..], 9, SelfService, Some(9)),
            (&terms, &[(Free, 1)][..], 2, SelfService, Some(8)),
            (&terms, &[(SelfService, 8), (Free, 1)][..], 9, SelfService, Some(15)),
            (&terms, &[(SelfService, 15), (SelfService, 8), (Free, 1)][..], 16, SelfService, Some(38)),
            (&terms, &[(SelfService, 37), (SelfService, 15), (SelfService, 8)][..], 39, SelfService, Some(45)),
            (&terms, &[(SelfService, 15), (SelfService, 8)][..], 90, SelfService, Some(90)),
            (&never, &[][..], 1, Free, Some(1)),
            (&never, &[(Free, 1)][..], 90, SelfService, None),
        ] {
            let past: Vec<_> = past.iter().map(|(kind, at)| (*kind, day(*at))).collect();
            let next = next_after(&past, Some(day(0)), terms, day(today));
            assert_eq!(next, NextReset { kind, available_at: expected.map(day) }, "{past:?} on day {today}");
        }
    }
}
