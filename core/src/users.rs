//! People and how providers know them: the tables `users` and `identities`. The owner of a license is a
//! user; a Discord id is one of that user's identities. A user may never have signed in: Discord showed
//! them with a role.

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
    /// Who vouches for an identity.
    Provider {
        Discord => ("discord", "Discord"),
        Google => ("google", "Google"),
    }
}

impl User {
    /// What this person may do in this installation.
    ///
    /// # Errors
    /// When the row holds no role that is known.
    pub fn role(&self) -> Result<Role> {
        self.role.parse().map_err(|_| Error::Broken(format!("user {} has no known role", self.id)))
    }

    /// How this person stands.
    ///
    /// # Errors
    /// When the row holds no status that is known.
    pub fn status(&self) -> Result<AccountStatus> {
        self.status.parse().map_err(|_| Error::Broken(format!("user {} has no known status", self.id)))
    }
}

/// A person as Discord shows them: without an account here.
pub(crate) fn seen(id: UserId, now: DateTime<Utc>) -> User {
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

/// The user behind a Discord account, if they were ever seen.
///
/// # Errors
/// When the database does not answer.
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

/// The user behind a provider's account, made on first sight.
pub(crate) async fn ensure(tx: &Tx, provider: Provider, subject: &str) -> Result<UserId> {
    let find = identity::Entity::find_by_id((provider.to_string(), subject.to_owned()));
    if let Some(known) = find.clone().one(tx.db()).await? {
        return Ok(known.user_id);
    }
    let user = UserId(tx.core().ids.v7(tx.now()));
    insert(tx, seen(user, tx.now())).await?;
    link(tx, provider, subject, user).await?;
    let known = find.one(tx.db()).await?.ok_or_else(|| Error::Broken("an identity vanished".to_owned()))?;
    if known.user_id != user {
        // Another instance won: its user counts.
        delete(tx, user).await?;
    }
    Ok(known.user_id)
}

/// Notes that this provider's account is this user's, unless it is somebody's already.
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

/// A provider's account here.
pub(crate) async fn identity(tx: &Tx, provider: Provider, subject: &str) -> Result<Option<Identity>> {
    Ok(identity::Entity::find_by_id((provider.to_string(), subject.to_owned())).one(tx.db()).await?)
}

/// Keeps what the provider calls them, and its tokens.
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

/// Every account of a user at a provider.
///
/// # Errors
/// When the database does not answer.
pub async fn identities(core: &Core, user: UserId) -> Result<Vec<Identity>> {
    Ok(identity::Entity::find().filter(identity::Column::UserId.eq(user)).all(core.db.read()).await?)
}

/// The same, as this unit of work sees them.
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

/// Makes one person of two rows: who was only seen in Discord turns out to be `owner`, who holds nothing
/// yet, since everything is held by a Discord account.
pub(crate) async fn merge_users(tx: &Tx, seen: UserId, owner: UserId) -> Result<()> {
    macro_rules! hand_over {
        ($($table:ident),*) => {$(
            $table::Entity::update_many()
                .col_expr($table::Column::UserId, Expr::value(owner))
                .filter($table::Column::UserId.eq(seen))
                .exec(tx.db())
                .await?;
        )*};
    }
    hand_over!(holder, source, license, identity);
    delete(tx, seen).await
}

/// Takes a provider's account from a user. Answers whether there was one.
pub(crate) async fn unlink(tx: &Tx, provider: Provider, user: UserId) -> Result<bool> {
    let gone = identity::Entity::delete_many()
        .filter(identity::Column::UserId.eq(user))
        .filter(identity::Column::Provider.eq(provider.as_str()))
        .exec(tx.db())
        .await?;
    Ok(gone.rows_affected > 0)
}

/// Forgets what a provider gave besides the account's number.
pub(crate) async fn delete_provider_tokens(tx: &Tx, user: UserId) -> Result<()> {
    identity::Entity::update_many()
        .col_expr(identity::Column::Name, Expr::value(None::<String>))
        .col_expr(identity::Column::TokensSealed, Expr::value(None::<Vec<u8>>))
        .filter(identity::Column::UserId.eq(user))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// One user.
///
/// # Errors
/// When the database does not answer.
pub async fn find(core: &Core, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).one(core.db.read()).await?)
}

/// One user, as this unit of work sees them.
pub(crate) async fn find_in(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).one(tx.db()).await?)
}

/// One user, locked until the unit of work ends. Rows that refer to them may be written meanwhile.
pub(crate) async fn lock(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).lock(LockType::NoKeyUpdate).one(tx.db()).await?)
}

/// Whom an address means: who proved it, and who claimed it last without.
pub(crate) async fn find_by_email(core: &Core, email: &Email) -> Result<[Option<User>; 2]> {
    let claims = user::Entity::find().filter(user::Column::FoldedEmail.eq(&email.folded));
    let newest = claims.order_by_desc(user::Column::CreatedAt).order_by_desc(user::Column::Id);
    let owner = newest.clone().filter(user::Column::EmailVerifiedAt.is_not_null()).one(core.db.read()).await?;
    let claimant = newest.filter(user::Column::EmailVerifiedAt.is_null()).one(core.db.read()).await?;
    Ok([owner, claimant])
}

/// Everybody who claims an address, locked in the order of their ids; that nobody does is locked too.
pub(crate) async fn lock_unverified_and_owner(tx: &Tx, folded_email: &str) -> Result<Vec<User>> {
    throttles::lock(tx, "address", folded_email).await?;
    let claims = user::Entity::find().filter(user::Column::FoldedEmail.eq(folded_email));
    Ok(claims.order_by_asc(user::Column::Id).lock(LockType::NoKeyUpdate).all(tx.db()).await?)
}

pub(crate) async fn insert(tx: &Tx, user: User) -> Result<()> {
    user::Entity::insert(user::ActiveModel::from(user)).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Writes a user that was locked before.
pub(crate) async fn update(tx: &Tx, user: &User) -> Result<()> {
    let row = user::ActiveModel { created_at: NotSet, ..user::ActiveModel::from(user.clone()).reset_all() };
    user::Entity::update(row).exec(tx.db()).await?;
    Ok(())
}

pub(crate) async fn delete(tx: &Tx, id: UserId) -> Result<()> {
    user::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Sign-ups nobody proved for so long.
pub(crate) async fn delete_unverified(core: &Core, since: DateTime<Utc>) -> Result<u64> {
    let stale = user::Entity::delete_many()
        .filter(user::Column::Status.eq(AccountStatus::Pending.as_str()))
        .filter(user::Column::CreatedAt.lt(since));
    Ok(stale.exec(core.db.writer()).await?.rows_affected)
}

/// Whose deletion is due.
pub(crate) async fn list_due_for_deletion(core: &Core) -> Result<Vec<UserId>> {
    let due = user::Entity::find().filter(user::Column::DeletionAt.lte(core.clock.now())).all(core.db.read()).await?;
    Ok(due.into_iter().map(|user| user.id).collect())
}

/// Which of the people with an account are wanted.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Part of the name or address.
    pub search: Option<String>,
    /// How they stand.
    pub status: Option<AccountStatus>,
    /// What they may do.
    pub role: Option<Role>,
    /// Only whom a role of this server earned something.
    pub guild: Option<Snowflake>,
}

/// A page of the people with an account, or of a tenant's, newest first, and how many there are in all.
pub(crate) async fn list(core: &Core, wanted: &UserFilter, page: u64, size: u64) -> Result<(Vec<User>, u64)> {
    let mut found = user::Entity::find();
    found = match wanted.guild {
        None => found.filter(user::Column::RegisteredAt.is_not_null()),
        Some(guild) => found.filter(user::Column::Id.in_subquery(earned_in(guild))),
    };
    if let Some(text) = &wanted.search {
        // What a person types is text, not a pattern.
        let part = text.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
        let part = || LikeExpr::new(format!("%{part}%")).escape('\\');
        let named = Condition::any()
            .add(Expr::col(user::Column::FoldedEmail).like(part()))
            .add(Expr::expr(Func::lower(Expr::col(user::Column::Name))).like(part()));
        found = found.filter(named);
    }
    if let Some(status) = wanted.status {
        found = found.filter(user::Column::Status.eq(status.as_str()));
    }
    if let Some(role) = wanted.role {
        found = found.filter(user::Column::Role.eq(role.as_str()));
    }
    let total = found.clone().count(core.db.read()).await?;
    let rows = found
        .order_by_desc(user::Column::CreatedAt)
        .order_by_desc(user::Column::Id)
        .offset((page - 1).saturating_mul(size))
        .limit(size)
        .all(core.db.read())
        .await?;
    Ok((rows, total))
}

fn earned_in(guild: Snowflake) -> SelectStatement {
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

/// Whether a user holds, or ever held, anything of a tenant.
pub(crate) async fn is_holder(tx: &Tx, user: UserId) -> Result<bool> {
    Ok(holder::Entity::find().filter(holder::Column::UserId.eq(user)).one(tx.db()).await?.is_some())
}

/// Locks everything about a member's licenses with a tenant; absence is locked too.
pub(crate) async fn lock_holder(tx: &Tx, tenant: TenantId, user: UserId) -> Result<()> {
    let row = holder::ActiveModel { tenant_id: Set(tenant), user_id: Set(user) };
    holder::Entity::insert(row)
        .on_conflict(OnConflict::columns([holder::Column::TenantId, holder::Column::UserId]).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    holder::Entity::find_by_id((tenant, user)).lock_exclusive().one(tx.db()).await?;
    Ok(())
}
