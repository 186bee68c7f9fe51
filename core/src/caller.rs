//! Who makes a request, and the tenant it is made for.

use std::sync::Arc;

use crate::ids::{ApiKeyId, DiscordUserId, GuildId, ProductId, SessionId, TenantId, UserId};
use crate::{events::Actor, users::Role};

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
    /// A user with a session, and their role in this installation.
    User { user: UserId, session: SessionId, role: Role },
    /// A Discord user who manages the server they act in. The Discord side checks the permission.
    ServerAdmin { scope: Scope, guild: GuildId, member: DiscordUserId },
    /// The operator at the command line, for any tenant.
    Operator(Scope),
    /// The service itself: a worker, or an update reported by a provider.
    System(Scope),
}

/// An app with an API key.
#[derive(Clone, Debug)]
pub struct AppCaller {
    /// The tenant of the API key.
    pub scope: Scope,
    /// The API key.
    pub key: ApiKeyId,
    /// The products the API key covers.
    pub products: Arc<[CoveredProduct]>,
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
            Self::User { .. } => Scope(TenantId::INSTALLATION),
            Self::ServerAdmin { scope, .. } | Self::Operator(scope) | Self::System(scope) => scope.clone(),
        }
    }

    /// The originator of events that the caller causes.
    pub fn actor(&self) -> Actor {
        match self {
            Self::App(app) => Actor::ApiKey(app.key),
            Self::User { user, .. } => Actor::User(*user),
            Self::ServerAdmin { member, .. } => Actor::Discord(*member),
            Self::Operator(_) => Actor::Operator,
            Self::System(_) => Actor::System,
        }
    }
}
