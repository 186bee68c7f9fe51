//! Bans of users and devices, for one product or for all of a tenant. A banned user gets no license from any source, and
//! the licenses they have are not valid; nothing is revoked. A banned device cannot be used with any license.

use chrono::{DateTime, Datelike, Utc};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QuerySelect,
};

use crate::caller::{self, Access, Caller};
use crate::db::{self, Reader};
use crate::entity::ban::{Column, Entity};
use crate::entity::{device, license, product};
use crate::events::{EventData, NewEvent};
use crate::fingerprint::Fingerprint;
use crate::ids::{BanId, DeviceId, DiscordUserId, ProductId, TenantId, UserId};
use crate::page::{self, Page, PageRequest};
use crate::users::{self, Provider};
use crate::{Code, Core, Reason, Result, plain_text, tx::Tx};

pub use crate::entity::ban::Model as Ban;

/// Who or what is banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A user.
    User(UserId),
    /// The user of a Discord account, whether or not they are known yet.
    Discord(DiscordUserId),
    /// A device that a license is activated on.
    Device(DeviceId),
    /// A device, by its fingerprint.
    Fingerprint(Fingerprint),
}

/// A ban to create.
#[derive(Clone, Debug)]
pub struct NewBan {
    /// The tenant, for callers who manage several.
    pub tenant: Option<TenantId>,
    /// The product. `None`: all products of the tenant.
    pub product: Option<ProductId>,
    /// Who or what is banned.
    pub target: Target,
    /// Why; for managers.
    pub reason: String,
    /// When it ends. `None`: when it is lifted.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Creates a ban. Refused with `VALIDATION_ERROR`; with `NOT_FOUND` if the tenant, product, user or device is unknown to
/// the caller; `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn create(core: &Core, caller: &Caller, new: NewBan) -> Result<Ban> {
    let reason = plain_text::line("reason", &new.reason, 200)?;
    if new.expires_at.is_some_and(|end| end <= core.clock.now() || end.year() > 9999) {
        return Err(Reason::InvalidBanEnd.refusal());
    }
    let mut fingerprint = None;
    let mut given = new.tenant;
    match &new.target {
        Target::Device(id) => {
            let (device, tenant) = find_device(core, caller, *id).await?;
            (fingerprint, given) = (Some(device), Some(tenant));
        }
        Target::Fingerprint(text) => fingerprint = Some(text.hash(core.keys())),
        Target::User(_) | Target::Discord(_) => {}
    }
    let tenant = match new.product {
        Some(product) => require_product(core, caller, product, given).await?,
        None => caller.require_tenant(given)?,
    };
    let mut tx = Tx::begin(core).await?;
    let user = match new.target {
        Target::User(id) => Some(users::find(&tx, id).await?.ok_or_else(|| Reason::NoUser.refusal())?.id),
        Target::Discord(id) => Some(users::ensure_in(&tx, Provider::Discord, &id.to_string()).await?),
        Target::Device(_) | Target::Fingerprint(_) => None,
    };
    if let Some(user) = user {
        // Nobody issues a license to the user meanwhile.
        users::lock_holder(&tx, tenant, user).await?;
    }
    let ban = Ban {
        id: BanId(core.ids.v7(tx.now())),
        tenant_id: tenant,
        product_id: new.product,
        user_id: user,
        fingerprint,
        reason,
        actor: caller.actor().to_string(),
        created_at: tx.now(),
        expires_at: new.expires_at,
        lifted_at: None,
    };
    Entity::insert(ban.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    let (ban_id, product_id, reason) = (ban.id, ban.product_id, ban.reason.clone());
    let data = EventData::BanCreated { ban_id, product_id, reason, expires_at: ban.expires_at };
    record(&mut tx, caller, &ban, data);
    tx.commit_and_propagate(caller).await?;
    Ok(ban)
}

/// The hash of a device, and the tenant of its license.
async fn find_device(core: &Core, caller: &Caller, id: DeviceId) -> Result<(Vec<u8>, TenantId)> {
    let missing = || Reason::NoDevice.refusal();
    let device = device::Entity::find_by_id(id).one(core.db.read()).await?.ok_or_else(missing)?;
    let license = license::Entity::find_by_id(device.license_id).one(core.db.read()).await?.ok_or_else(missing)?;
    caller.require_product(Access::Manage, license.tenant_id, license.product_id).map_err(|_| missing())?;
    Ok((device.fingerprint, license.tenant_id))
}

/// The tenant of a product that the caller manages.
async fn require_product(core: &Core, by: &Caller, id: ProductId, given: Option<TenantId>) -> Result<TenantId> {
    let unknown = || caller::no_product(id);
    let product = product::Entity::find_by_id(id).one(core.db.read()).await?.ok_or_else(unknown)?;
    by.require_product(Access::Manage, product.tenant_id, id)?;
    given.is_none_or(|given| given == product.tenant_id).then_some(product.tenant_id).ok_or_else(unknown)
}

/// The bans that the caller may see, newest first. Refused with `ACCESS_DENIED`, `REQUIRES_2FA`, `INVALID_CURSOR`.
pub async fn list(core: &Core, caller: &Caller, user: Option<UserId>, page: &PageRequest) -> Result<Page<Ban>> {
    let visible = caller.readable(Column::TenantId, Column::ProductId)?;
    let rows = Entity::find()
        .filter(visible.clone())
        .filter(Condition::all().add_option(user.map(|id| Column::UserId.eq(id))));
    page::newest_first(core, rows, Column::Id, &("bans", visible, user), page).await
}

/// Lifts a ban, as part of a transaction that locks its user. `None`: it was lifted before. Refused with `NOT_FOUND`,
/// `ACCESS_DENIED`, `REQUIRES_2FA`.
pub(crate) async fn lift(tx: &mut Tx, caller: &Caller, id: BanId) -> Result<Option<Ban>> {
    let missing = || Reason::NoBan.refusal();
    let ban = Entity::find_by_id(id).one(tx.db()).await?.ok_or_else(missing)?;
    match ban.product_id {
        Some(product) => caller.require_product(Access::Manage, ban.tenant_id, product),
        None => caller.require_tenant(Some(ban.tenant_id)).map(drop),
    }
    .map_err(|error| if error.code() == Code::NotFound { missing() } else { error })?;
    if let Some(user) = ban.user_id {
        users::lock_holder(tx, ban.tenant_id, user).await?;
    }
    let ban = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?.ok_or_else(missing)?;
    if ban.lifted_at.is_some() {
        return Ok(None);
    }
    db::update([(Column::LiftedAt, tx.now().into())], [Column::Id.eq(id)]).exec(tx.db()).await?;
    record(tx, caller, &ban, EventData::BanLifted { ban_id: id, product_id: ban.product_id });
    Ok(Some(ban))
}

fn record(tx: &mut Tx, caller: &Caller, ban: &Ban, data: EventData) {
    let event = NewEvent::tenant(ban.tenant_id, caller.actor(), data);
    tx.record(NewEvent { subject: ban.user_id, ..event });
}

/// The bans in effect at `now` that hold for a product, which may be columns of another table.
pub(crate) fn in_effect(tenant: impl Into<Expr>, product: impl Into<Expr>, now: DateTime<Utc>) -> Condition {
    let either = |left: Expr, right: Expr| Condition::any().add(left).add(right);
    let is = |column: Column, value: Expr| ExprTrait::eq(Expr::col((Entity, column)), value);
    Condition::all()
        .add(is(Column::TenantId, tenant.into()))
        .add(either(Column::ProductId.is_null(), is(Column::ProductId, product.into())))
        .add(Column::LiftedAt.is_null())
        .add(either(Column::ExpiresAt.is_null(), Column::ExpiresAt.gt(now)))
}

/// Whether a user may not have licenses for a product. The caller has locked the holder, so that no ban is created
/// meanwhile.
pub(crate) async fn is_banned(tx: &Tx, tenant: TenantId, product: ProductId, user: UserId) -> Result<bool> {
    let bans = Entity::find().filter(in_effect(tenant, product, tx.now()));
    Ok(bans.filter(Column::UserId.eq(user)).count(tx.db()).await? > 0)
}

/// Refused with `CONFLICT` if the user is banned.
pub(crate) async fn require_not_banned(tx: &Tx, tenant: TenantId, product: ProductId, user: UserId) -> Result<()> {
    if is_banned(tx, tenant, product, user).await? { Err(Reason::UserBanned.refusal()) } else { Ok(()) }
}

/// Whether a device with one of these hashes may not be used with licenses for a product.
pub(crate) async fn is_blocked(
    from: &impl Reader,
    tenant: TenantId,
    product: ProductId,
    fingerprints: Vec<Vec<u8>>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let bans = Entity::find().filter(in_effect(tenant, product, now));
    Ok(bans.filter(Column::Fingerprint.is_in(fingerprints)).count(from.connection()).await? > 0)
}
