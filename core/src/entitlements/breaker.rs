//! The circuit breaker of reconciliations: too many losses at once are not applied until an admin confirms.

use std::{collections::BTreeMap, fmt, time::Duration};

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use crate::entity::circuit_breaker::{Column, Entity, Model};
use crate::events::{Actor, EventData, NewEvent, OriginLabel};
use crate::{Caller, Core, Error, Reason, Result, db, guilds, ids::TenantId, tx::Tx, users::Provider, workers};

/// How long a confirmation is valid.
const CONFIRMATION: Duration = Duration::from_mins(15);

/// What a reconciliation covers: the members of a guild.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// The provider it is at.
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

/// What a stopped reconciliation would have applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The members who have lost a source.
    pub losing: usize,
    /// The members who had one.
    pub holders: usize,
    /// The members who have lost each source, by its reference.
    pub losses: BTreeMap<Uuid, usize>,
}

/// What the last reconciliation would have applied, if it was stopped.
pub async fn find(core: &Core, origin: &Origin) -> Result<Option<Stopped>> {
    let Some(row) = Entity::find_by_id(origin.to_string()).one(core.db.read()).await? else { return Ok(None) };
    let losses = serde_json::from_value(row.losses).map_err(|error| Error::Internal(error.to_string()))?;
    let [losing, holders] = [row.ending, row.holders].map(|count| usize::try_from(count).unwrap_or_default());
    Ok(Some(Stopped { losing, holders, losses }))
}

/// Lets the reconciliation that was stopped apply its losses, but no more of them, in the next 15 minutes. `losing` is the
/// number that the caller has seen. Refused with `CONFLICT` if none was stopped, or the number has changed.
pub async fn confirm(core: &Core, caller: &Caller, origin: &Origin, losing: usize) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let now = tx.now();
    let tenant = caller.scope().tenant();
    let stopped =
        [Column::Origin.eq(origin.to_string()), Column::TenantId.eq(tenant), Column::Ending.eq(number(losing))];
    let confirm = db::update([(Column::ConfirmedUntil, (now + CONFIRMATION).into())], stopped);
    if confirm.exec(tx.db()).await?.rows_affected == 0 {
        return Err(Reason::NothingToConfirm.refusal());
    }
    tx.record(NewEvent::tenant(tenant, caller.actor(), EventData::SyncConfirmed { origin: origin.label.clone() }));
    guilds::retry_reads_of(&tx, tenant).await?;
    workers::schedule_at(&mut tx, origin.worker, now).await?;
    tx.commit().await
}

/// Whether an admin has confirmed as many losses.
pub(super) async fn is_confirmed(core: &Core, origin: &Origin, losing: usize) -> Result<bool> {
    let Some(row) = Entity::find_by_id(origin.to_string()).one(core.db.read()).await? else { return Ok(false) };
    Ok(number(losing) <= row.ending && row.confirmed_until.is_some_and(|until| until > core.clock.now()))
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Stops a reconciliation. The event is written once, until it is confirmed or closed.
pub(super) async fn open(core: &Core, origin: &Origin, stopped: &Stopped) -> Result<()> {
    if find(core, origin).await?.as_ref() == Some(stopped) {
        return Ok(());
    }
    let &Stopped { losing, holders, ref losses } = stopped;
    let losses = serde_json::to_value(losses).map_err(|error| Error::Internal(error.to_string()))?;
    let mut tx = Tx::begin(core).await?;
    // The confirmation has expired, or was for fewer losses.
    let confirmed = Entity::delete_many().filter(Column::Origin.eq(origin.to_string()));
    confirmed.filter(Column::ConfirmedUntil.is_not_null()).exec(tx.db()).await?;
    let row = Model {
        origin: origin.to_string(),
        tenant_id: origin.tenant,
        opened_at: tx.now(),
        confirmed_until: None,
        ending: number(losing),
        holders: number(holders),
        losses: losses.clone(),
    };
    let is_new = db::insert_if_new(tx.db(), row.into_active_model()).await?;
    let counts = [
        (Column::Ending, number(losing).into()),
        (Column::Holders, number(holders).into()),
        (Column::Losses, losses.into()),
    ];
    db::update(counts, [Column::Origin.eq(origin.to_string())]).exec(tx.db()).await?;
    if is_new {
        let data = EventData::BreakerTripped { origin: origin.label.clone(), ending: losing, holders };
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
