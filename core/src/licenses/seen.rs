//! Stores what waits behind answers: the first `VALID` of a license's life, and when rows were last used.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, LockBehavior, LockType};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};

use super::state::Command;
use super::store;
use crate::entity::license::{self, Column, Model as License};
use crate::entity::{api_key, device, policy};
use crate::events::{self, Actor, EventData, NewEvent};
use crate::ids::LicenseId;
use crate::policy::{ExpiryBasis, PolicyTerms};
use crate::write_behind::{FirstValid, Used};
use crate::{Core, Result, db, tx::Tx};

/// How many rows one statement updates.
const BATCH: usize = 500;

impl License {
    /// Whether a valid verdict would be the first since it was assigned or renewed.
    pub(super) fn awaits_first_valid(&self, now: DateTime<Utc>) -> bool {
        self.first_valid_at.is_none() && self.state(now).allows(Command::Validate)
    }

    /// When it was assigned, or renewed after that. Earlier verdicts are not about its present life.
    pub(super) fn life_begins_at(&self) -> Option<DateTime<Utc>> {
        Ord::max(self.assigned_at, self.renewed_at)
    }

    /// The license after its first valid verdict, which is its activation too if it needs no device.
    pub(super) fn with_first_valid(&self, terms: &PolicyTerms, at: DateTime<Utc>) -> Self {
        let begins = match terms.expiry_basis {
            ExpiryBasis::FirstValidation => true,
            ExpiryBasis::FirstActivation => self.activated_at.is_none(),
            ExpiryBasis::Creation | ExpiryBasis::Assignment | ExpiryBasis::FixedDate => false,
        };
        let begins = begins && self.expires_at.is_none();
        let expires_at = if begins { terms.expiry_from(at) } else { self.expires_at };
        let lapses_at = if begins { terms.lapse(expires_at) } else { self.lapses_at };
        let activated_at = self.activated_at.or(Some(at));
        Self { activated_at, first_valid_at: Some(at), expires_at, lapses_at, ..self.clone() }
    }
}

/// Stores everything that waits. A row that someone else has locked is left for the next time, so that no lock delays
/// the others. What was stored does not wait any more, even if an error follows.
pub async fn store_pending(core: &Core) -> Result<()> {
    let pending = core.write_behind.pending();
    for (id, first) in pending.first_valid {
        let work = store_first_valid(core, id, &first);
        let stored = match first.request_id.clone() {
            Some(request) => events::with_request_id(request, work).await?,
            None => work.await?,
        };
        if stored {
            core.write_behind.remove_first_valid(id, first.at);
        }
    }
    // By second: the times of one are equal.
    let mut by_time: BTreeMap<DateTime<Utc>, Vec<Used>> = BTreeMap::new();
    for (used, at) in pending.last_used {
        by_time.entry(at).or_default().push(used);
    }
    for (at, used) in by_time {
        for batch in used.chunks(BATCH) {
            store_last_used(core, at, batch).await?;
            core.write_behind.remove(batch);
        }
    }
    Ok(())
}

/// Stores the first `VALID` of a license. `false`: it is locked.
async fn store_first_valid(core: &Core, id: LicenseId, first: &FirstValid) -> Result<bool> {
    let mut tx = Tx::begin(core).await?;
    let unlocked = license::Entity::find_by_id(id).lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    let Some(license) = unlocked.one(tx.db()).await? else {
        return Ok(store::find(core, id).await?.is_none());
    };
    let is_of_former_life = license.life_begins_at().is_some_and(|begins_at| first.at < begins_at);
    if is_of_former_life || !license.awaits_first_valid(tx.now()) {
        return Ok(true);
    }
    let policy = policy::Entity::find_by_id(license.policy_id).one(tx.db()).await?;
    let policy = policy.ok_or_else(|| store::no_policy(id))?;
    let after = license.with_first_valid(&policy.terms, first.at);
    let changes = [
        (Column::ActivatedAt, after.activated_at.into()),
        (Column::FirstValidAt, after.first_valid_at.into()),
        (Column::ExpiresAt, after.expires_at.into()),
        (Column::LapsesAt, after.lapses_at.into()),
    ];
    // An event follows unless only the state changes, which every instance sees from its own first VALID.
    let changes = changes.into_iter().chain([(Column::Rev, Expr::col(Column::Rev).add(1))]);
    db::update(changes, [Column::Id.eq(id)]).exec(tx.db()).await?;
    if license.activated_at.is_none() {
        let data = EventData::LicenseActivated {
            from: license.state(tx.now()),
            state: after.state(tx.now()),
            device_id: None,
        };
        let event = NewEvent::tenant(license.tenant_id, Actor::ApiKey(first.by), data);
        tx.record(NewEvent { subject: license.user_id, license: Some(id), ..event });
    } else if license.expires_at != after.expires_at {
        let data = EventData::LicenseChanged { fields: vec!["expiresAt"] };
        let event = NewEvent::tenant(license.tenant_id, Actor::ApiKey(first.by), data);
        tx.record(NewEvent { subject: license.user_id, license: Some(id), ..event });
    }
    tx.commit().await?;
    Ok(true)
}

/// Stores that rows were used at `at`, unless they were used later.
async fn store_last_used(core: &Core, at: DateTime<Utc>, used: &[Used]) -> Result<()> {
    let ids = |of: fn(&Used) -> Option<uuid::Uuid>| used.iter().filter_map(of).collect();
    let licenses = ids(|used| if let Used::License(id) = used { Some(id.0) } else { None });
    let devices = ids(|used| if let Used::Device(id) = used { Some(id.0) } else { None });
    let api_keys = ids(|used| if let Used::ApiKey(id) = used { Some(id.0) } else { None });
    set_time(core, Column::Id, Column::LastSeenAt, licenses, at).await?;
    set_time(core, device::Column::Id, device::Column::LastSeenAt, devices, at).await?;
    set_time(core, api_key::Column::Id, api_key::Column::LastUsedAt, api_keys, at).await
}

/// Sets a time of the rows that no one has locked and that have no later one.
async fn set_time<C: ColumnTrait>(core: &Core, id: C, column: C, rows: Vec<uuid::Uuid>, at: DateTime<Utc>) -> Result<()>
where
    C::EntityName: EntityTrait<Column = C>,
{
    if rows.is_empty() {
        return Ok(());
    }
    let is_earlier = column.is_null().or(column.lt(at));
    let unlocked = C::EntityName::find().select_only().column(id).filter(id.is_in(rows)).filter(is_earlier);
    let unlocked = unlocked.order_by_asc(id).lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked);
    let update = db::update([(column, at.into())], [id.in_subquery(unlocked.into_query())]);
    update.exec(core.db.writer()).await?;
    Ok(())
}
