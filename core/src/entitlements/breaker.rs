//! The circuit breaker of reconciliations: too many losses at once are not applied until an admin confirms.

use std::{fmt, time::Duration};

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel};

use crate::entity::circuit_breaker::{Column, Entity, Model};
use crate::events::{Actor, EventData, NewEvent, OriginLabel};
use crate::{Caller, Core, Reason, Result, db, ids::TenantId, tx::Tx, users::Provider, workers};

/// How long a confirmation is valid.
const CONFIRMATION: Duration = Duration::from_mins(15);

/// What a reconciliation walks: the members of a guild or campaign.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// Where it is.
    pub provider: Provider,
    /// Its id there.
    pub id: String,
    /// How events name it.
    pub label: OriginLabel,
    /// The worker that reconciles it.
    pub worker: &'static str,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.id)
    }
}

/// Lets the reconciliation that was stopped apply its losses, in the next 15 minutes. Refused with `CONFLICT` if none
/// was stopped.
pub async fn confirm(core: &Core, caller: &Caller, origin: &Origin) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let now = tx.now();
    let tenant = caller.scope().tenant();
    let stopped = [Column::Origin.eq(origin.to_string()), Column::TenantId.eq(tenant)];
    let confirm = db::update([(Column::ConfirmedUntil, (now + CONFIRMATION).into())], stopped);
    if confirm.exec(tx.db()).await?.rows_affected == 0 {
        return Err(Reason::NothingToConfirm.refusal());
    }
    tx.record(NewEvent::tenant(tenant, caller.actor(), EventData::SyncConfirmed { origin: origin.label.clone() }));
    workers::schedule_at(&mut tx, origin.worker, now).await?;
    tx.commit().await
}

/// Whether losses may be applied whatever their number.
pub(super) async fn is_confirmed(core: &Core, origin: &Origin) -> Result<bool> {
    let row = Entity::find_by_id(origin.to_string()).one(core.db.read()).await?;
    Ok(row.and_then(|row| row.confirmed_until).is_some_and(|until| until > core.clock.now()))
}

/// Stops a reconciliation; the event is written once until it is closed.
pub(super) async fn open(core: &Core, origin: &Origin, ending: usize, holders: usize) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let (name, opened_at) = (origin.to_string(), tx.now());
    let row = Model { origin: name, tenant_id: origin.tenant, opened_at, confirmed_until: None };
    if db::insert_if_new(tx.db(), row.into_active_model()).await? {
        let data = EventData::BreakerTripped { origin: origin.label.clone(), ending, holders };
        tx.record(NewEvent::tenant(origin.tenant, Actor::System, data));
    }
    tx.commit().await
}

/// The reconciliation went through: a confirmation is used up.
pub(super) async fn close(core: &Core, origin: &Origin) -> Result<()> {
    // Looking costs no write lock.
    if Entity::find_by_id(origin.to_string()).one(core.db.read()).await?.is_some() {
        Entity::delete_by_id(origin.to_string()).exec(core.db.writer()).await?;
    }
    Ok(())
}
