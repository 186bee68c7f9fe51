//! Lists of licenses, and what callers see in them.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect};

use super::{facts::LicenseFacts, state::LicenseState, store};
use crate::crypto::api_key::ApiKeyMode;
use crate::entity::license::{Column, Entity, Model as License};
use crate::entity::{device, lease, policy};
use crate::ids::{LicenseId, PolicyId, ProductId, UserId};
use crate::page::{self, Page, PageRequest};
use crate::policy::PolicyTerms;
use crate::{Caller, Core, Error, Reason, Result, users::Role};

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
    let rows = Entity::find().filter(visible_to(caller, filter)?).filter(filter.condition(core.clock.now()));
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

/// The licenses that a caller may list.
fn visible_to(caller: &Caller, filter: &LicenseFilter) -> Result<Condition> {
    let user = match caller {
        Caller::App(app) if app.mode == ApiKeyMode::Test => return Ok(Condition::all().add(Column::Id.is_null())),
        Caller::App(_) => return caller.readable(Column::TenantId, Column::ProductId),
        Caller::User(user) => user,
        Caller::ServerAdmin { scope, .. } | Caller::Operator(scope) | Caller::System(scope) => {
            return Ok(Condition::all().add(Column::TenantId.eq(scope.tenant())));
        }
    };
    let own = Condition::any().add(Column::UserId.eq(user.user));
    if caller.is_member() || (filter.user.is_none_or(|owner| owner == user.user) && filter.product.is_none()) {
        return Ok(own);
    }
    if user.lacks_second_factor {
        return Err(Reason::AdminsNeedSecondFactor.refusal());
    }
    if user.role >= Role::Moderator {
        return Ok(Condition::all());
    }
    Ok(own.add(Column::TenantId.is_in(user.manages.iter().copied())))
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
            terms: terms.ok_or_else(|| Error::Internal(format!("license {} has no policy", license.id)))?,
            devices_used: count(&devices, license.id),
            sessions_used: count(&sessions, license.id),
            license: Arc::new(license),
        })
    });
    facts.collect()
}
