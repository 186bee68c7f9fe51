//! Users and their identities at providers: the tables `users` and `identities`. A license belongs to a
//! user; a Discord account is one of the user's identities. A user known only from a Discord role has no
//! account and never signed in.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::{NotSet, Set},
    ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, ExprTrait, Func, LikeExpr, LockType, OnConflict, SelectStatement},
};

use crate::{
    Core, Error, Result, Snowflake,
    accounts::{AccountStatus, Email, Role},
    entity::{holder, identity, license, role_mapping, source, user},
    error::string_enum,
    ids::{TenantId, UserId},
    throttles,
    tx::Tx,
};

pub use crate::entity::{identity::Model as Identity, user::Model as User};

string_enum! {
    /// An identity provider.
    Provider {
        Discord => ("discord", "Discord"),
        Google => ("google", "Google"),
    }
}

impl User {
    /// The user's role in this installation.
    ///
    /// # Errors
    /// Fails if the stored role is unknown.
    pub fn role(&self) -> Result<Role> {
        self.role.parse().map_err(|_| Error::Internal(format!("user {} has an unknown role", self.id)))
    }

    /// The status of the user's account.
    ///
    /// # Errors
    /// Fails if the stored status is unknown.
    pub fn status(&self) -> Result<AccountStatus> {
        self.status.parse().map_err(|_| Error::Internal(format!("user {} has an unknown status", self.id)))
    }
}

/// A user without an account and without personal data.
pub(crate) fn without_account(id: UserId, now: DateTime<Utc>) -> User {
    User {
        id,
        created_at: now,
        email: None,
        folded_email: None,
        email_verified_at: None,
        name: None,
        locale: None,
        status: AccountStatus::Active.to_string(),
        status_reason: None,
        role: Role::User.to_string(),
        registered_at: None,
        deletion_at: None,
    }
}

/// The user with a Discord account, if known.
pub async fn find_by_discord(core: &Core, id: Snowflake) -> Result<Option<UserId>> {
    let row = identity::Entity::find_by_id((Provider::Discord.to_string(), id.to_string())).one(core.db.read()).await?;
    Ok(row.map(|row| row.user_id))
}

/// The Discord account of a user.
pub(crate) async fn discord_id(core: &Core, user: UserId) -> Result<Option<Snowflake>> {
    let row = identity::Entity::find()
        .filter(identity::Column::UserId.eq(user))
        .filter(identity::Column::Provider.eq(Provider::Discord.as_str()))
        .one(core.db.read())
        .await?;
    Ok(row.and_then(|row| row.subject.parse().ok().map(Snowflake)))
}

/// The user with a provider's account, created if unknown.
pub(crate) async fn ensure(tx: &Tx, provider: Provider, subject: &str) -> Result<UserId> {
    let find = identity::Entity::find_by_id((provider.to_string(), subject.to_owned()));
    if let Some(known) = find.clone().one(tx.db()).await? {
        return Ok(known.user_id);
    }
    let user = UserId(tx.core().ids.v7(tx.now()));
    insert(tx, without_account(user, tx.now())).await?;
    link(tx, provider, subject, user).await?;
    let known = find.one(tx.db()).await?.ok_or_else(|| Error::Internal("an identity disappeared".to_owned()))?;
    if known.user_id != user {
        // Another instance inserted the identity first; its user is used.
        delete(tx, user).await?;
    }
    Ok(known.user_id)
}

/// Links a provider's account to a user, unless it is already linked.
pub(crate) async fn link(tx: &Tx, provider: Provider, subject: &str, user: UserId) -> Result<()> {
    let row = identity::ActiveModel {
        provider: Set(provider.to_string()),
        subject: Set(subject.to_owned()),
        user_id: Set(user),
        created_at: Set(tx.now()),
        name: Set(None),
        tokens_sealed: Set(None),
    };
    identity::Entity::insert(row)
        .on_conflict(
            OnConflict::columns([identity::Column::Provider, identity::Column::Subject]).do_nothing().to_owned(),
        )
        .exec_without_returning(tx.db())
        .await?;
    Ok(())
}

/// The identity for a provider's account.
pub(crate) async fn identity(tx: &Tx, provider: Provider, subject: &str) -> Result<Option<Identity>> {
    Ok(identity::Entity::find_by_id((provider.to_string(), subject.to_owned())).one(tx.db()).await?)
}

/// Stores the name and tokens that the provider returned.
pub(crate) async fn store_provider_tokens(
    tx: &Tx,
    identity: &Identity,
    name: Option<String>,
    sealed: Vec<u8>,
) -> Result<()> {
    identity::Entity::update_many()
        .col_expr(identity::Column::Name, Expr::value(name))
        .col_expr(identity::Column::TokensSealed, Expr::value(sealed))
        .filter(identity::Column::Provider.eq(&identity.provider))
        .filter(identity::Column::Subject.eq(&identity.subject))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// All identities of a user.
pub async fn identities(core: &Core, user: UserId) -> Result<Vec<Identity>> {
    Ok(identity::Entity::find().filter(identity::Column::UserId.eq(user)).all(core.db.read()).await?)
}

/// The Discord IDs of those users who have linked a Discord account.
pub async fn discord_ids(core: &Core, users: &[UserId]) -> Result<HashMap<UserId, String>> {
    let found = identity::Entity::find()
        .filter(identity::Column::Provider.eq(Provider::Discord.as_str()))
        .filter(identity::Column::UserId.is_in(users.iter().copied()));
    Ok(found.all(core.db.read()).await?.into_iter().map(|identity| (identity.user_id, identity.subject)).collect())
}

/// Like [`identities`], within a transaction.
pub(crate) async fn identities_in(tx: &Tx, user: UserId) -> Result<Vec<Identity>> {
    Ok(identity::Entity::find().filter(identity::Column::UserId.eq(user)).all(tx.db()).await?)
}

/// Whether a user has an account at this provider.
pub(crate) async fn has_identity(tx: &Tx, provider: Provider, user: UserId) -> Result<bool> {
    let found = identity::Entity::find()
        .filter(identity::Column::UserId.eq(user))
        .filter(identity::Column::Provider.eq(provider.as_str()));
    Ok(found.one(tx.db()).await?.is_some())
}

/// Merges a user known only from Discord into `owner`, who has no licenses yet: only a Discord account
/// can have them.
pub(crate) async fn merge_users(tx: &Tx, discord_user: UserId, owner: UserId) -> Result<()> {
    macro_rules! reassign {
        ($($table:ident),*) => {$(
            $table::Entity::update_many()
                .col_expr($table::Column::UserId, Expr::value(owner))
                .filter($table::Column::UserId.eq(discord_user))
                .exec(tx.db())
                .await?;
        )*};
    }
    reassign!(holder, source, license, identity);
    delete(tx, discord_user).await
}

/// Removes a user's identity at a provider. Returns whether there was one.
pub(crate) async fn unlink(tx: &Tx, provider: Provider, user: UserId) -> Result<bool> {
    let deleted = identity::Entity::delete_many()
        .filter(identity::Column::UserId.eq(user))
        .filter(identity::Column::Provider.eq(provider.as_str()))
        .exec(tx.db())
        .await?;
    Ok(deleted.rows_affected > 0)
}

/// Deletes the names and tokens of a user's identities, but not the account ids.
pub(crate) async fn delete_provider_tokens(tx: &Tx, user: UserId) -> Result<()> {
    identity::Entity::update_many()
        .col_expr(identity::Column::Name, Expr::value(None::<String>))
        .col_expr(identity::Column::TokensSealed, Expr::value(None::<Vec<u8>>))
        .filter(identity::Column::UserId.eq(user))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// A user by id.
pub async fn find(core: &Core, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).one(core.db.read()).await?)
}

/// Like [`find`], within a transaction.
pub(crate) async fn find_in(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).one(tx.db()).await?)
}

/// A user by id, locked until the transaction ends. Rows that refer to the user can still be written.
pub(crate) async fn lock(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).lock(LockType::NoKeyUpdate).one(tx.db()).await?)
}

/// The user who verified an email address, and the newest user who has not verified it.
pub(crate) async fn find_by_email(core: &Core, email: &Email) -> Result<[Option<User>; 2]> {
    let with_email = user::Entity::find().filter(user::Column::FoldedEmail.eq(&email.folded));
    let newest = with_email.order_by_desc(user::Column::CreatedAt).order_by_desc(user::Column::Id);
    let owner = newest.clone().filter(user::Column::EmailVerifiedAt.is_not_null()).one(core.db.read()).await?;
    let unverified = newest.filter(user::Column::EmailVerifiedAt.is_null()).one(core.db.read()).await?;
    Ok([owner, unverified])
}

/// All users with an email address, verified or not, locked in the order of their ids. The address is
/// locked too, in case there are none.
pub(crate) async fn lock_all_with_email(tx: &Tx, folded_email: &str) -> Result<Vec<User>> {
    throttles::lock(tx, "address", folded_email).await?;
    let with_email = user::Entity::find().filter(user::Column::FoldedEmail.eq(folded_email));
    Ok(with_email.order_by_asc(user::Column::Id).lock(LockType::NoKeyUpdate).all(tx.db()).await?)
}

pub(crate) async fn insert(tx: &Tx, user: User) -> Result<()> {
    user::Entity::insert(user::ActiveModel::from(user)).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Stores a user that the caller has locked.
pub(crate) async fn update(tx: &Tx, user: &User) -> Result<()> {
    let row = user::ActiveModel { created_at: NotSet, ..user::ActiveModel::from(user.clone()).reset_all() };
    user::Entity::update(row).exec(tx.db()).await?;
    Ok(())
}

pub(crate) async fn delete(tx: &Tx, id: UserId) -> Result<()> {
    user::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Deletes unverified sign-ups created before `since`. Returns how many.
pub(crate) async fn delete_unverified(core: &Core, since: DateTime<Utc>) -> Result<u64> {
    let expired = user::Entity::delete_many()
        .filter(user::Column::Status.eq(AccountStatus::Pending.as_str()))
        .filter(user::Column::CreatedAt.lt(since));
    Ok(expired.exec(core.db.writer()).await?.rows_affected)
}

/// Users whose deletion is due.
pub(crate) async fn list_due_for_deletion(core: &Core) -> Result<Vec<UserId>> {
    let due = user::Entity::find().filter(user::Column::DeletionAt.lte(core.clock.now())).all(core.db.read()).await?;
    Ok(due.into_iter().map(|user| user.id).collect())
}

/// A filter for the list of users.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Part of the name or email address.
    pub search: Option<String>,
    /// The status of the account.
    pub status: Option<AccountStatus>,
    /// The role.
    pub role: Option<Role>,
    /// Only users with a source from a role of this server.
    pub guild: Option<Snowflake>,
}

/// A page of the users with an account, or with a source from a guild, newest first; and the total count.
pub(crate) async fn list(core: &Core, filter: &UserFilter, page: u64, size: u64) -> Result<(Vec<User>, u64)> {
    let mut query = user::Entity::find();
    query = match filter.guild {
        None => query.filter(user::Column::RegisteredAt.is_not_null()),
        Some(guild) => query.filter(user::Column::Id.in_subquery(users_with_source_in(guild))),
    };
    if let Some(text) = &filter.search {
        // The search term is text, not a pattern.
        let escaped = text.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
        let pattern = || LikeExpr::new(format!("%{escaped}%")).escape('\\');
        let matches = Condition::any()
            .add(Expr::col(user::Column::FoldedEmail).like(pattern()))
            .add(Expr::expr(Func::lower(Expr::col(user::Column::Name))).like(pattern()));
        query = query.filter(matches);
    }
    if let Some(status) = filter.status {
        query = query.filter(user::Column::Status.eq(status.as_str()));
    }
    if let Some(role) = filter.role {
        query = query.filter(user::Column::Role.eq(role.as_str()));
    }
    let total = query.clone().count(core.db.read()).await?;
    let rows = query
        .order_by_desc(user::Column::CreatedAt)
        .order_by_desc(user::Column::Id)
        .offset((page - 1).saturating_mul(size))
        .limit(size)
        .all(core.db.read())
        .await?;
    Ok((rows, total))
}

fn users_with_source_in(guild: Snowflake) -> SelectStatement {
    let mappings = role_mapping::Entity::find()
        .select_only()
        .column(role_mapping::Column::Id)
        .filter(role_mapping::Column::GuildId.eq(guild))
        .into_query();
    source::Entity::find()
        .select_only()
        .column(source::Column::UserId)
        .filter(source::Column::Reference.in_subquery(mappings))
        .into_query()
}

/// Whether a user has, or ever had, an entitlement of any tenant.
pub(crate) async fn is_holder(tx: &Tx, user: UserId) -> Result<bool> {
    Ok(holder::Entity::find().filter(holder::Column::UserId.eq(user)).one(tx.db()).await?.is_some())
}

/// Locks everything about a user's licenses with a tenant, even if there are none yet.
pub(crate) async fn lock_holder(tx: &Tx, tenant: TenantId, user: UserId) -> Result<()> {
    let row = holder::ActiveModel { tenant_id: Set(tenant), user_id: Set(user) };
    holder::Entity::insert(row)
        .on_conflict(OnConflict::columns([holder::Column::TenantId, holder::Column::UserId]).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    holder::Entity::find_by_id((tenant, user)).lock_exclusive().one(tx.db()).await?;
    Ok(())
}
