//! Lists of licenses, and what callers see in them.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Func, NullOrdering};
use sea_orm::{ColumnTrait, Condition, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{facts::LicenseFacts, state::LicenseState, store};
use crate::crypto::api_key::ApiKeyMode;
use crate::entity::license::{Column, Entity, Model as License};
use crate::entity::{device, lease, policy};
use crate::ids::{LicenseId, PolicyId, ProductId, UserId};
use crate::page::{self, Page, PageRequest};
use crate::policy::{LicenseType, PolicyTerms};
use crate::string_enum::string_enum;
use crate::{Caller, Core, Result, db};

/// Selects licenses by all that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct LicenseFilter {
    pub user: Option<UserId>,
    pub product: Option<ProductId>,
    pub state: Option<LicenseState>,
    pub created_before: Option<DateTime<Utc>>,
}

/// The licenses of a signed-in user; with a user or a product in the filter, also those they manage. Those of its products
/// for an API key. Newest first. Refused with `ACCESS_DENIED`, `REQUIRES_2FA`, `INVALID_CURSOR`.
pub async fn list(
    core: &Core,
    caller: &Caller,
    filter: &LicenseFilter,
    request: &PageRequest,
) -> Result<Page<LicenseFacts>> {
    let visible = match caller {
        // Those of others only if they are asked for.
        Caller::User(user) if filter.product.is_none() && filter.user.is_none_or(|owner| owner == user.user) => {
            Condition::all().add(Column::UserId.eq(user.user))
        }
        _ => visible_to(caller)?,
    };
    let rows = Entity::find().filter(visible).filter(filter.condition(core.clock.now()));
    let bound_to = ("licenses", caller.actor().to_string(), caller.scope(), filter);
    let page = page::newest_first(core, rows, Column::Id, &bound_to, request).await?;
    Ok(Page { items: facts_of(core, page.items).await?, next: page.next })
}

impl LicenseFilter {
    /// The condition at `now`.
    pub(super) fn condition(&self, now: DateTime<Utc>) -> Condition {
        Condition::all()
            .add_option(self.user.map(|user| Column::UserId.eq(user)))
            .add_option(self.product.map(|product| Column::ProductId.eq(product)))
            .add_option(self.created_before.map(|before| Column::CreatedAt.lt(before)))
            .add_option(self.state.map(|state| store::is_in_state(state, now)))
    }
}

string_enum! {
    /// What a search is sorted by. Licenses without such a value come last.
    LicenseOrder {
        CreatedAt => "createdAt",
        ExpiresAt => "expiresAt",
        Name => "name",
    }

    /// The direction of a search.
    SortOrder {
        Ascending => "asc",
        Descending => "desc",
    }
}

/// Selects licenses by all that is given.
#[derive(Clone, Debug, Default)]
pub struct LicenseSearch {
    /// Their owner.
    pub owner: Option<UserId>,
    /// Their state is one of these.
    pub states: Option<Vec<LicenseState>>,
    /// Their type.
    pub license_type: Option<LicenseType>,
    /// Part of their name, or of the hint of their key.
    pub text: Option<String>,
}

/// A page of the licenses that the caller has or manages, from number 1, and how many match. Counting reads them all:
/// [`list`] does not. Refused with `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn search(
    core: &Core,
    caller: &Caller,
    search: &LicenseSearch,
    (order, direction): (LicenseOrder, SortOrder),
    (page, size): (u64, u64),
) -> Result<(Vec<LicenseFacts>, u64)> {
    let matching = search.condition(core.clock.now());
    let rows = Entity::find().filter(visible_to(caller)?).filter(matching);
    let total = rows.clone().count(core.db.read()).await?;
    let column = match order {
        LicenseOrder::CreatedAt => Column::CreatedAt,
        LicenseOrder::ExpiresAt => Column::ExpiresAt,
        LicenseOrder::Name => Column::Name,
    };
    let direction = if direction == SortOrder::Ascending { Order::Asc } else { Order::Desc };
    let sorted =
        rows.order_by_with_nulls(column, direction.clone(), NullOrdering::Last).order_by(Column::Id, direction);
    let licenses = sorted.offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?;
    Ok((facts_of(core, licenses).await?, total))
}

impl LicenseSearch {
    fn condition(&self, now: DateTime<Utc>) -> Condition {
        let states = self
            .states
            .as_ref()
            .map(|states| states.iter().fold(Condition::any(), |any, state| any.add(store::is_in_state(*state, now))));
        let of_type = self.license_type.map(store::is_of_type);
        let text = self.text.as_deref().map(|text| {
            let contains = |column| Expr::expr(Func::lower(Expr::col(column))).like(db::containing(text));
            Condition::any().add(contains(Column::Name)).add(contains(Column::KeyHint))
        });
        let owner = self.owner.map(|owner| Column::UserId.eq(owner));
        Condition::all().add_option(owner).add_option(states).add_option(of_type).add_option(text)
    }
}

/// The licenses that a caller has or may read as a manager.
fn visible_to(caller: &Caller) -> Result<Condition> {
    let own = match caller {
        Caller::App(app) if app.mode == ApiKeyMode::Test => return Ok(Condition::all().add(Column::Id.is_null())),
        Caller::User(user) => Condition::any().add(Column::UserId.eq(user.user)),
        _ => return caller.readable(Column::TenantId, Column::ProductId),
    };
    if caller.is_member() {
        return Ok(own);
    }
    let managed = caller.readable(Column::TenantId, Column::ProductId)?;
    // Without a condition, these are all licenses.
    Ok(if managed.is_empty() { managed } else { own.add(managed) })
}

/// The facts of licenses that have been read, in their order.
async fn facts_of(core: &Core, licenses: Vec<License>) -> Result<Vec<LicenseFacts>> {
    let db = core.db.read();
    let ids: Vec<LicenseId> = licenses.iter().map(|license| license.id).collect();
    let policies = policy::Entity::find().filter(policy::Column::Id.is_in(licenses.iter().map(|row| row.policy_id)));
    let policies = policies.all(db).await?.into_iter().map(|policy| (policy.id, Arc::new(policy.terms)));
    let policies: HashMap<PolicyId, Arc<PolicyTerms>> = policies.collect();
    let devices = device::Entity::find().select_only().column(device::Column::LicenseId);
    let devices = devices.column_as(device::Column::Id.count(), "used").group_by(device::Column::LicenseId);
    let devices = devices.filter(device::Column::LicenseId.is_in(ids.iter().copied()));
    let devices: HashMap<LicenseId, i64> = devices.into_tuple().all(db).await?.into_iter().collect();
    let sessions = lease::Entity::find().select_only().column(lease::Column::LicenseId);
    let sessions = sessions.column_as(lease::Column::Id.count(), "used").group_by(lease::Column::LicenseId);
    let open = lease::Column::SupersededAt.is_null().and(lease::Column::ExpiresAt.gt(core.clock.now()));
    let sessions = sessions.filter(lease::Column::LicenseId.is_in(ids)).filter(open);
    let sessions: HashMap<LicenseId, i64> = sessions.into_tuple().all(db).await?.into_iter().collect();
    let count = |counts: &HashMap<LicenseId, i64>, id| counts.get(&id).copied().unwrap_or_default().unsigned_abs();
    let facts = licenses.into_iter().map(|license| {
        let terms = policies.get(&license.policy_id).cloned();
        Ok(LicenseFacts {
            terms: terms.ok_or_else(|| store::no_policy(license.id))?,
            devices_used: count(&devices, license.id),
            sessions_used: count(&sessions, license.id),
            license: Arc::new(license),
        })
    });
    facts.collect()
}
