//! The circuit breaker of reconciliations: too many losses at once are not applied until an admin confirms.

use std::{fmt, time::Duration};

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Caller, Core, Reason, Result, Scope,
    entity::circuit_breaker::{ActiveModel, Column, Entity, Model},
    events::{EventData, NewEvent, OriginLabel},
    ids::TenantId,
    tx::Tx,
    users::Provider,
    workers,
};

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
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.id)
    }
}

impl Origin {
    fn label(&self) -> OriginLabel {
        OriginLabel::Guild { guild_id: self.id.clone() }
    }
}

/// Lets the reconciliation that was stopped apply its losses, in the next 15 minutes.
///
/// # Errors
/// `CONFLICT` if none was stopped.
pub async fn confirm(core: &Core, caller: &Caller, origin: &Origin) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let now = tx.now();
    let open = Entity::update_many()
        .col_expr(Column::ConfirmedUntil, Expr::value(now + CONFIRMATION))
        .filter(Column::Origin.eq(origin.to_string()))
        .filter(Column::TenantId.eq(caller.scope().tenant()))
        .exec(tx.db())
        .await?;
    if open.rows_affected == 0 {
        return Err(Reason::NothingToConfirm.refusal());
    }
    record(&mut tx, caller, EventData::SyncConfirmed { origin: origin.label() });
    workers::schedule_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await
}

/// Whether losses may be applied whatever their number.
pub(super) async fn is_confirmed(core: &Core, origin: &Origin) -> Result<bool> {
    let row = Entity::find_by_id(origin.to_string()).one(core.db.read()).await?;
    Ok(row.and_then(|row: Model| row.confirmed_until).is_some_and(|until| until > core.clock.now()))
}

/// Stops a reconciliation; the event is written once until it is closed.
pub(super) async fn open(core: &Core, origin: &Origin, ending: usize, holders: usize) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let row = ActiveModel {
        origin: Set(origin.to_string()),
        tenant_id: Set(origin.tenant),
        opened_at: Set(tx.now()),
        confirmed_until: Set(None),
    };
    let opened = Entity::insert(row)
        .on_conflict(OnConflict::column(Column::Origin).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    if opened > 0 {
        let system = Caller::System(Scope::of(origin.tenant));
        record(&mut tx, &system, EventData::BreakerTripped { origin: origin.label(), ending, holders });
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

fn record(tx: &mut Tx, caller: &Caller, data: EventData) {
    let (tenant, actor) = (caller.scope().tenant(), caller.actor());
    tx.record(NewEvent { tenant, actor, subject: None, license: None, data });
}
