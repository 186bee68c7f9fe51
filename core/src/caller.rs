//! Who makes a request, and the tenant it is made for.

use std::sync::Arc;

use sea_orm::{ColumnTrait, Condition};

use crate::api_key_scopes::ApiKeyScope;
use crate::crypto::api_key::{ApiKeyKind, ApiKeyMode};
use crate::ids::{ApiKeyId, DiscordUserId, GuildId, ProductId, SessionId, TenantId, UserId};
use crate::{Code, Error, Reason, Result, events::Actor, licenses::License, users::Role};

/// The tenant a caller was proved to belong to. Functions that list or find for a caller take it, so that no
/// query forgets to filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(TenantId);

impl Scope {
    /// The scope of an authenticated caller, or of the row that is worked on.
    pub(crate) fn of(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.0
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub enum Caller {
    /// An app with an API key.
    App(AppCaller),
    /// A user with a session.
    User(UserCaller),
    /// A Discord user who manages the server they act in. The Discord side checks the permission.
    ServerAdmin { scope: Scope, guild: GuildId, member: DiscordUserId },
    /// The operator at the command line, for any tenant.
    Operator(Scope),
    /// The service itself: a worker, or an update reported by a provider.
    System(Scope),
}

/// A user with a session.
#[derive(Clone, Debug)]
pub struct UserCaller {
    /// The user.
    pub user: UserId,
    /// Their session.
    pub session: SessionId,
    /// Their role in this installation.
    pub role: Role,
    /// The tenants whose licenses they manage, whatever their role is.
    pub manages: Arc<[TenantId]>,
    /// Whether they need a second factor to act on what is not theirs, and signed in without one.
    pub lacks_second_factor: bool,
}

impl UserCaller {
    /// A user who acts on accounts, where managing tenants gives no rights.
    pub(crate) fn new(user: UserId, session: SessionId, role: Role) -> Self {
        Self { user, session, role, manages: Arc::default(), lacks_second_factor: false }
    }
}

/// An app with an API key.
#[derive(Clone, Debug)]
pub struct AppCaller {
    /// The tenant of the API key.
    pub scope: Scope,
    /// The API key.
    pub key: ApiKeyId,
    /// Where the API key may be used.
    pub kind: ApiKeyKind,
    /// Whether it works with real licenses.
    pub mode: ApiKeyMode,
    /// What it may be used for.
    pub scopes: Arc<[ApiKeyScope]>,
    /// The products the API key covers.
    pub products: Arc<[CoveredProduct]>,
}

impl AppCaller {
    /// Whether the API key covers a product.
    pub fn covers(&self, product: ProductId) -> bool {
        self.products.iter().any(|covered| covered.id == product)
    }

    /// Whether the app may know of a license: it belongs to the tenant of the API key, and to a product that the key covers.
    pub(crate) fn may_know(&self, license: &License) -> bool {
        license.tenant_id == self.scope.tenant() && self.covers(license.product_id)
    }

    /// Refused with `ACCESS_DENIED` if the API key lacks a scope.
    pub fn require(&self, scope: ApiKeyScope) -> Result<()> {
        let lacks = || Reason::ApiKeyLacksScope { scope }.refusal();
        self.scopes.contains(&scope).then_some(()).ok_or_else(lacks)
    }
}

/// What a caller may do with a license, from the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read it: an API key without the scope to change it.
    Read,
    /// What its owner may do.
    Own,
    /// Suspend, resume and revoke it too.
    Moderate,
    /// Everything.
    Manage,
}

/// A product that an API key covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoveredProduct {
    /// The product.
    pub id: ProductId,
    /// The prefix of its keys, implied when an app sends a key without one.
    pub prefix: String,
}

impl Caller {
    /// The operator of this installation, for this tenant.
    pub fn operator(tenant: TenantId) -> Self {
        Self::Operator(Scope(tenant))
    }

    /// The tenant; the installation itself for users.
    pub fn scope(&self) -> Scope {
        match self {
            Self::App(app) => app.scope.clone(),
            Self::User(_) => Scope(TenantId::INSTALLATION),
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => scope.clone(),
        }
    }

    /// The originator of events that the caller causes.
    pub fn actor(&self) -> Actor {
        match self {
            Self::App(app) => Actor::ApiKey(app.key),
            Self::User(user) => Actor::User(user.user),
            Self::ServerAdmin { member, .. } => Actor::Discord(*member),
            Self::Operator(_) => Actor::Operator,
            Self::System(_) => Actor::System,
        }
    }

    /// Requires that the caller may do this with a license. Refused with `NOT_FOUND` if they may not know of it, as no API
    /// key for testing may, `ACCESS_DENIED` if they may do less, `REQUIRES_2FA`.
    pub fn require(&self, needed: Access, license: &License) -> Result<()> {
        if matches!(self, Self::App(app) if app.mode == ApiKeyMode::Test) {
            return Err(Reason::NoLicense.refusal());
        }
        let own = matches!(self, Self::User(user) if license.user_id == Some(user.user)).then_some(Access::Own);
        let access = own.max(self.access_to(license.tenant_id, license.product_id));
        match access.ok_or_else(|| Reason::NoLicense.refusal())? {
            given if given >= needed => self.require_second_factor(own >= Some(needed)),
            _ => Err(Code::AccessDenied.refusal()),
        }
    }

    /// Whether the caller is a user who manages nothing, so that only their own licenses concern them.
    pub(crate) fn is_member(&self) -> bool {
        matches!(self, Self::User(user) if user.role < Role::Moderator && user.manages.is_empty())
    }

    /// Requires that the caller manages a product. Refused with `NOT_FOUND` if they may not know of it,
    /// `ACCESS_DENIED` if they may do less, `REQUIRES_2FA`.
    pub fn require_product(&self, needed: Access, tenant: TenantId, product: ProductId) -> Result<()> {
        match self.access_to(tenant, product) {
            None => Err(no_product(product)),
            Some(given) if given >= needed => self.require_second_factor(false),
            Some(_) => Err(Code::AccessDenied.refusal()),
        }
    }

    /// The tenants whose API keys the caller manages; `None` stands for all. Refused with `ACCESS_DENIED` for
    /// apps: an API key makes and ends no API keys; `REQUIRES_2FA`.
    pub fn managed_tenants(&self) -> Result<Option<Vec<TenantId>>> {
        self.require_second_factor(false)?;
        match self {
            Self::App(_) => Err(Code::AccessDenied.refusal()),
            Self::User(user) if user.role >= Role::Admin => Ok(None),
            Self::User(user) => Ok(Some(user.manages.to_vec())),
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => {
                Ok(Some(vec![scope.tenant()]))
            }
        }
    }

    /// The tenant that the caller creates something for: the given one, or the only one that they manage. Refused with
    /// `NOT_FOUND` if they do not manage it, `VALIDATION_ERROR` if they must name one, `ACCESS_DENIED`, `REQUIRES_2FA`.
    pub fn require_tenant(&self, given: Option<TenantId>) -> Result<TenantId> {
        let user = match self {
            Self::App(_) => return Err(Code::AccessDenied.refusal()),
            Self::User(user) => user,
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => {
                let own = scope.tenant();
                return given.is_none_or(|given| given == own).then_some(own).ok_or_else(|| Reason::NoTenant.refusal());
            }
        };
        let is_admin = user.role >= Role::Admin;
        let tenant = match (given, &*user.manages) {
            (Some(given), manages) if is_admin || manages.contains(&given) => Ok(given),
            (Some(_), _) => Err(Reason::NoTenant.refusal()),
            (None, [only]) => Ok(*only),
            (None, []) if !is_admin => Err(Code::AccessDenied.refusal()),
            (None, manages) => Err(Reason::TenantRequired { manages: manages.to_vec() }.refusal()),
        }?;
        self.require_second_factor(false).map(|()| tenant)
    }

    /// The rows of a table that the caller may read as a manager, by the columns of their tenant and product. Refused with
    /// `ACCESS_DENIED`, `REQUIRES_2FA`.
    pub(crate) fn readable<C: ColumnTrait>(&self, tenant: C, product: C) -> Result<Condition> {
        self.require_second_factor(false)?;
        match self {
            Self::App(app) => {
                app.require(ApiKeyScope::Read).or_else(|lacks| app.require(ApiKeyScope::Write).map_err(|_| lacks))?;
                Ok(Condition::all().add(product.is_in(app.products.iter().map(|covered| covered.id))))
            }
            Self::User(user) if user.role >= Role::Moderator => Ok(Condition::all()),
            Self::User(user) => Ok(Condition::all().add(tenant.is_in(user.manages.iter().copied()))),
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => {
                Ok(Condition::all().add(tenant.eq(scope.tenant())))
            }
        }
    }

    /// What the caller may do with all licenses of a product.
    fn access_to(&self, tenant: TenantId, product: ProductId) -> Option<Access> {
        match self {
            Self::App(app) if app.scope.tenant() == tenant && app.covers(product) => {
                let has = |scope| app.scopes.contains(&scope);
                if has(ApiKeyScope::Write) && app.mode == ApiKeyMode::Live {
                    Some(Access::Manage)
                } else {
                    has(ApiKeyScope::Read).then_some(Access::Read)
                }
            }
            Self::User(user) if user.role >= Role::Admin || user.manages.contains(&tenant) => Some(Access::Manage),
            Self::User(user) if user.role == Role::Moderator => Some(Access::Moderate),
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => {
                (scope.tenant() == tenant).then_some(Access::Manage)
            }
            Self::App(_) | Self::User(_) => None,
        }
    }

    /// `is_own`: the caller acts on what is theirs.
    fn require_second_factor(&self, is_own: bool) -> Result<()> {
        match self {
            Self::User(user) if user.lacks_second_factor && !is_own => Err(Reason::AdminsNeedSecondFactor.refusal()),
            _ => Ok(()),
        }
    }
}

/// A refusal that does not tell whether the product exists.
pub(crate) fn no_product(id: ProductId) -> Error {
    Reason::NoProduct { wanted: id.to_string(), known: Vec::new(), total: 0 }.refusal()
}
