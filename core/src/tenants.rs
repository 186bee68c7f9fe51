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

/// The tenant a caller was proved to belong to. Authentication makes one; inside core, the row that is
/// worked on does. What lists or finds for a caller takes it, so that a filter is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(TenantId);

impl Scope {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.0
    }

    /// The operator of this installation may look at any tenant.
    #[must_use]
    pub fn operator(tenant: TenantId) -> Self {
        Self(tenant)
    }

    pub(crate) fn of(tenant: TenantId) -> Self {
        Self(tenant)
    }
}

/// Who calls, on whose behalf, and about which products.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant.
    pub scope: Scope,
    /// The name in the log.
    pub actor: Actor,
    /// The products an API key covers; empty for people.
    pub products: Vec<Covered>,
}

/// A product an API key may ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The product.
    pub id: ProductId,
    /// The prefix of its keys, implied when an app sends a key without one.
    pub prefix: String,
}

impl Caller {
    /// A person Discord vouches for, acting in a guild the bot is in. The door checks what Discord
    /// lets them do.
    ///
    /// # Errors
    /// `NOT_FOUND` for a guild the bot never saw.
    pub async fn in_guild(core: &Core, guild: Snowflake, person: Snowflake) -> Result<Self> {
        let guild = guilds::find(core, guild).await?;
        let guild = guild.ok_or_else(|| Code::NotFound.because("This server is not set up; invite the bot again."))?;
        Ok(Self { scope: Scope(guild.tenant_id), actor: Actor::Discord(person), products: Vec::new() })
    }

    /// The operator of this installation, on behalf of any tenant.
    #[must_use]
    pub fn operator(tenant: TenantId) -> Self {
        Self { scope: Scope(tenant), actor: Actor::Operator, products: Vec::new() }
    }
}

/// Every tenant: for the operator.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core) -> Result<Vec<(TenantId, String)>> {
    let rows = tenant::Entity::find().all(core.db.read()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// A new tenant.
pub(crate) async fn insert(tx: &Tx, name: &str) -> Result<TenantId> {
    let id = TenantId(tx.core().ids.v7(tx.now()));
    let row = tenant::ActiveModel { id: Set(id), name: Set(name.to_owned()), created_at: Set(tx.now()) };
    tenant::Entity::insert(row).exec_without_returning(tx.db()).await?;
    Ok(id)
}

/// Takes back a tenant that nothing refers to.
pub(crate) async fn delete(tx: &Tx, id: TenantId) -> Result<()> {
    tenant::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// A new tenant without a guild: for the operator.
///
/// # Errors
/// When the database does not answer.
pub async fn create(core: &Core, name: &str) -> Result<TenantId> {
    let tx = Tx::begin(core).await?;
    let id = insert(&tx, name).await?;
    tx.commit().await?;
    Ok(id)
}
