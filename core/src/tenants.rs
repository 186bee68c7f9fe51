//! Tenants and the proof that a caller belongs to one.

use sea_orm::{ActiveValue::Set, EntityTrait};

use crate::{
    Code, Core, Result, Snowflake,
    entity::tenant,
    events::Actor,
    guilds,
    ids::{ProductId, TenantId},
    tx::Tx,
};

/// Proof that a caller may act for a tenant. Authentication creates it, or, within core, the row being
/// processed. Functions that read data for a caller take it, so that the tenant filter is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(TenantId);

impl Scope {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.0
    }

    /// A scope for the operator of this installation, for any tenant.
    #[must_use]
    pub fn operator(tenant: TenantId) -> Self {
        Self(tenant)
    }

    pub(crate) fn of(tenant: TenantId) -> Self {
        Self(tenant)
    }
}

/// The caller of a function: its tenant, actor and products.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant.
    pub scope: Scope,
    /// The actor recorded in events.
    pub actor: Actor,
    /// The products an API key covers; empty for users.
    pub products: Vec<CoveredProduct>,
}

/// A product that an API key covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoveredProduct {
    /// The product.
    pub id: ProductId,
    /// The prefix of its license keys, assumed if an app sends a key without one.
    pub prefix: String,
}

impl Caller {
    /// A Discord user acting in a guild the bot is in. This function does not check their permissions.
    ///
    /// # Errors
    /// `NOT_FOUND` if the guild is unknown.
    pub async fn in_guild(core: &Core, guild: Snowflake, user: Snowflake) -> Result<Self> {
        let guild = guilds::find(core, guild).await?;
        let guild = guild.ok_or_else(|| Code::NotFound.because("This server is not set up. Invite the bot again."))?;
        Ok(Self { scope: Scope(guild.tenant_id), actor: Actor::Discord(user), products: Vec::new() })
    }

    /// The operator of this installation, acting for a tenant.
    #[must_use]
    pub fn operator(tenant: TenantId) -> Self {
        Self { scope: Scope(tenant), actor: Actor::Operator, products: Vec::new() }
    }
}

/// All tenants; for the operator.
pub async fn list(core: &Core) -> Result<Vec<(TenantId, String)>> {
    let rows = tenant::Entity::find().all(core.db.read()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// Inserts a tenant.
pub(crate) async fn insert(tx: &Tx, name: &str) -> Result<TenantId> {
    let id = TenantId(tx.core().ids.v7(tx.now()));
    let row = tenant::ActiveModel { id: Set(id), name: Set(name.to_owned()), created_at: Set(tx.now()) };
    tenant::Entity::insert(row).exec_without_returning(tx.db()).await?;
    Ok(id)
}

/// Deletes a tenant that nothing refers to.
pub(crate) async fn delete(tx: &Tx, id: TenantId) -> Result<()> {
    tenant::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Creates a tenant without a guild; for the operator.
pub async fn create(core: &Core, name: &str) -> Result<TenantId> {
    let tx = Tx::begin(core).await?;
    let id = insert(&tx, name).await?;
    tx.commit().await?;
    Ok(id)
}
