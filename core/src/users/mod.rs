//! Users and their identities at providers: the tables `users` and `identities`. A license belongs to a
//! user; a Discord account is one of the user's identities. A user known only from a Discord role has no
//! account and never signed in.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::sea_query::{ExprTrait, LockType, OnConflict};
use sea_orm::{ActiveModelTrait, ActiveValue::NotSet, ColumnTrait, Condition, EntityTrait, IntoActiveModel};
use sea_orm::{QueryFilter, QueryOrder, QuerySelect};

use crate::db::{self, Reader};
use crate::entity::{holder, identity, user};
use crate::ids::{TenantId, UserId};
use crate::{Code, Core, DiscordUserId, Error, Reason, Result, throttles, tx::Tx};

mod email;
mod list;
mod types;

pub use self::email::Email;
pub(crate) use self::list::list;
pub use self::list::{UserFilter, UserPage};
pub use self::types::{AccountStatus, Locale, Provider, Recipient, Role, SignInMethod};
pub use crate::entity::{identity::Model as Identity, user::Model as User};

/// A user without an account and without personal data.
pub(crate) fn without_account(id: UserId, now: DateTime<Utc>) -> User {
    User {
        id,
        created_at: now,
        email: None,
        folded_email: None,
        folded_name: None,
        email_verified_at: None,
        name: None,
        locale: None,
        status: AccountStatus::Active,
        status_reason: None,
        role: Role::User,
        registered_at: None,
        deletion_at: None,
        deletion_by_admin: false,
    }
}

impl User {
    /// What names the account to its owner and to the operator: the email address, or else the name or the id.
    pub fn label(&self) -> String {
        self.email.clone().or(self.name.clone()).unwrap_or_else(|| self.id.to_string())
    }

    /// Whether the user has verified this address.
    pub(crate) fn owns(&self, email: &Email) -> bool {
        self.email_verified_at.is_some() && self.folded_email.as_ref() == Some(&email.folded)
    }

    /// Refuses accounts that are not active. Call it only after the user has authenticated, because the refusal
    /// discloses the status.
    pub(crate) fn ensure_active(&self) -> Result<()> {
        match self.status {
            AccountStatus::Active => Ok(()),
            AccountStatus::Pending => Err(Code::EmailNotVerified.refusal()),
            AccountStatus::Suspended => Err(Code::AccountSuspended.refusal()),
            AccountStatus::Banned => Err(Code::AccountBanned.refusal()),
        }
    }
}

/// The user with this account at a provider, if known.
pub async fn find_by_identity(core: &Core, provider: Provider, subject: &str) -> Result<Option<UserId>> {
    Ok(identity(core, provider, subject).await?.map(|identity| identity.user_id))
}

/// The Discord account of a user.
pub async fn discord_id(core: &Core, user: UserId) -> Result<Option<DiscordUserId>> {
    let identities = identities(core, user).await?;
    let discord = identities.into_iter().find(|identity| identity.provider == Provider::Discord);
    Ok(discord.and_then(|identity| identity.subject.parse().ok().map(DiscordUserId)))
}

/// The user who is to be given something. Refused with `NOT_FOUND` if there is no such user.
pub(crate) async fn resolve(core: &Core, recipient: Recipient) -> Result<UserId> {
    match recipient {
        Recipient::Discord(account) => ensure(core, Provider::Discord, &account.to_string()).await,
        // An unverified sign-up can be deleted, and may be of someone else.
        Recipient::User(id) => match find(core, id).await?.filter(|user| user.status != AccountStatus::Pending) {
            Some(user) => Ok(user.id),
            None => Err(Reason::NoUser.refusal()),
        },
    }
}

/// Whether a user has a Discord account.
pub(crate) async fn has_discord(from: &impl Reader, user: UserId) -> Result<bool> {
    Ok(identities(from, user).await?.iter().any(|identity| identity.provider == Provider::Discord))
}

/// The user with this account at a provider, created if unknown.
pub async fn ensure(core: &Core, provider: Provider, subject: &str) -> Result<UserId> {
    if let Some(known) = find_by_identity(core, provider, subject).await? {
        return Ok(known);
    }
    let tx = Tx::begin_repeatable(core).await?;
    let user = ensure_in(&tx, provider, subject).await?;
    tx.commit().await?;
    Ok(user)
}

/// The users with these accounts at a provider; unknown ones are missing.
pub(crate) async fn find_all(core: &Core, provider: Provider, subjects: &[String]) -> Result<HashMap<String, UserId>> {
    let known = identity::Entity::find()
        .filter(identity::Column::Provider.eq(provider))
        .filter(identity::Column::Subject.is_in(subjects));
    let known = known.all(core.db.read()).await?;
    Ok(known.into_iter().map(|identity| (identity.subject, identity.user_id)).collect())
}

/// Like [`ensure`] for several accounts.
pub(crate) async fn ensure_all(
    core: &Core,
    provider: Provider,
    subjects: Vec<String>,
) -> Result<HashMap<String, UserId>> {
    let mut users = find_all(core, provider, &subjects).await?;
    let new = subjects.into_iter().filter(|subject| !users.contains_key(subject)).collect();
    users.extend(insert_all(core, provider, new).await?);
    Ok(users)
}

/// Like [`ensure_all`], for accounts that were unknown a moment ago.
pub(crate) async fn insert_all(
    core: &Core,
    provider: Provider,
    mut subjects: Vec<String>,
) -> Result<HashMap<String, UserId>> {
    // In the same order everywhere: an inserted identity is a lock.
    subjects.sort_unstable();
    subjects.dedup();
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    let tx = Tx::begin_repeatable(core).await?;
    let users: Vec<UserId> = subjects.iter().map(|_| UserId(core.ids.v7(tx.now()))).collect();
    let rows = users.iter().map(|user| without_account(*user, tx.now()).into_active_model());
    user::Entity::insert_many(rows).exec_without_returning(tx.db()).await?;
    let rows = subjects.iter().zip(&users).map(|(subject, user)| new_identity(&tx, provider, subject, *user));
    let unless_known = OnConflict::new().do_nothing().to_owned();
    let rows = identity::Entity::insert_many(rows.map(IntoActiveModel::into_active_model)).on_conflict(unless_known);
    let inserted = rows.exec_without_returning(tx.db()).await?;
    if inserted == users.len() as u64 {
        tx.commit().await?;
        return Ok(subjects.into_iter().zip(users).collect());
    }
    // Another instance inserted some of the identities first; their users are used.
    let known = identity::Entity::find().filter(identity::Column::Provider.eq(provider));
    let known = known.filter(identity::Column::Subject.is_in(subjects)).all(tx.db()).await?;
    let unused = users.into_iter().filter(|user| !known.iter().any(|identity| identity.user_id == *user));
    user::Entity::delete_many().filter(user::Column::Id.is_in(unused)).exec(tx.db()).await?;
    tx.commit().await?;
    Ok(known.into_iter().map(|identity| (identity.subject, identity.user_id)).collect())
}

/// Like [`ensure`], as part of a transaction.
pub(crate) async fn ensure_in(tx: &Tx, provider: Provider, subject: &str) -> Result<UserId> {
    if let Some(known) = identity(tx, provider, subject).await? {
        return Ok(known.user_id);
    }
    let user = UserId(tx.core().ids.v7(tx.now()));
    insert(tx, without_account(user, tx.now())).await?;
    link(tx, provider, subject, user).await?;
    let known = identity(tx, provider, subject).await?;
    let known = known.ok_or_else(|| Error::Internal("an identity disappeared".to_owned()))?;
    if known.user_id != user {
        // Another instance inserted the identity first; its user is used.
        delete(tx, user).await?;
    }
    Ok(known.user_id)
}

/// Links a provider's account to a user, unless it is already linked.
pub(crate) async fn link(tx: &Tx, provider: Provider, subject: &str, user: UserId) -> Result<()> {
    db::insert_if_new(tx.db(), new_identity(tx, provider, subject, user).into_active_model()).await.map(drop)
}

fn new_identity(tx: &Tx, provider: Provider, subject: &str, user: UserId) -> Identity {
    let (subject, created_at) = (subject.to_owned(), tx.now());
    Identity { provider, subject, user_id: user, created_at, name: None, tokens_sealed: None }
}

/// The identity for a provider's account.
pub(crate) async fn identity(from: &impl Reader, provider: Provider, subject: &str) -> Result<Option<Identity>> {
    Ok(identity::Entity::find_by_id((provider, subject.to_owned())).one(from.connection()).await?)
}

/// Stores the name and tokens that the provider returned.
pub(crate) async fn store_provider_tokens(
    tx: &Tx,
    identity: &Identity,
    name: Option<String>,
    sealed: Vec<u8>,
) -> Result<()> {
    let changes = [(identity::Column::Name, name.into()), (identity::Column::TokensSealed, sealed.into())];
    let key = [identity::Column::Provider.eq(identity.provider), identity::Column::Subject.eq(&identity.subject)];
    db::update(changes, key).exec(tx.db()).await?;
    Ok(())
}

/// All identities of a user.
pub async fn identities(from: &impl Reader, user: UserId) -> Result<Vec<Identity>> {
    Ok(identity::Entity::find().filter(identity::Column::UserId.eq(user)).all(from.connection()).await?)
}

/// Moves all identities of a user to another one.
pub(crate) async fn move_identities(tx: &Tx, from: UserId, into: UserId) -> Result<()> {
    let moved = [(identity::Column::UserId, into.into())];
    db::update(moved, [identity::Column::UserId.eq(from)]).exec(tx.db()).await?;
    Ok(())
}

/// The Discord IDs of those users who have linked a Discord account.
pub async fn discord_ids(core: &Core, users: &[UserId]) -> Result<HashMap<UserId, String>> {
    let found = identity::Entity::find()
        .filter(identity::Column::Provider.eq(Provider::Discord))
        .filter(identity::Column::UserId.is_in(users.iter().copied()));
    Ok(found.all(core.db.read()).await?.into_iter().map(|identity| (identity.user_id, identity.subject)).collect())
}

/// Removes a user's identity at a provider. Returns whether there was one.
pub(crate) async fn unlink(tx: &Tx, provider: Provider, user: UserId) -> Result<bool> {
    let linked = identity::Entity::delete_many().filter(identity::Column::UserId.eq(user));
    let deleted = linked.filter(identity::Column::Provider.eq(provider)).exec(tx.db()).await?;
    Ok(deleted.rows_affected > 0)
}

/// Deletes the names and tokens of a user's identities, but not the account ids.
pub(crate) async fn delete_provider_tokens(tx: &Tx, user: UserId) -> Result<()> {
    let (no_name, no_tokens) = (None::<String>.into(), None::<Vec<u8>>.into());
    let changes = [(identity::Column::Name, no_name), (identity::Column::TokensSealed, no_tokens)];
    db::update(changes, [identity::Column::UserId.eq(user)]).exec(tx.db()).await?;
    Ok(())
}

/// A user by id.
pub async fn find(from: &impl Reader, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).one(from.connection()).await?)
}

/// A user by id, locked until the transaction ends. Rows that refer to the user can still be written.
pub(crate) async fn lock(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).lock(LockType::NoKeyUpdate).one(tx.db()).await?)
}

/// A user by id, locked until the transaction ends, so that nobody can add a row that refers to the user.
pub(crate) async fn lock_for_deletion(tx: &Tx, id: UserId) -> Result<Option<User>> {
    Ok(user::Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?)
}

/// The user who verified an email address, and the newest user who has not verified it.
pub(crate) async fn find_by_email(core: &Core, email: &Email) -> Result<[Option<User>; 2]> {
    let with_email = user::Entity::find().filter(user::Column::FoldedEmail.eq(&email.folded));
    let newest = with_email.order_by_desc(user::Column::CreatedAt).order_by_desc(user::Column::Id);
    let owner = newest.clone().filter(user::Column::EmailVerifiedAt.is_not_null()).one(core.db.read()).await?;
    let unverified = newest.filter(user::Column::EmailVerifiedAt.is_null()).one(core.db.read()).await?;
    Ok([owner, unverified])
}

/// The user with this Discord ID, or the only user with this name, in any case, and a verified email address.
pub(crate) async fn find_by_identifier(core: &Core, identifier: &str) -> Result<Option<User>> {
    if identifier.contains(char::is_control) {
        return Ok(None);
    }
    if let Some(user) = find_by_identity(core, Provider::Discord, identifier).await? {
        return find(core, user).await;
    }
    let named = user::Entity::find()
        .filter(user::Column::FoldedName.eq(identifier.to_lowercase()))
        .filter(user::Column::EmailVerifiedAt.is_not_null());
    let named = named.limit(2).all(core.db.read()).await?;
    Ok(<[User; 1]>::try_from(named).ok().map(|[user]| user))
}

/// All users with an email address, verified or not, and the user who claims it, locked in the order of their ids. The
/// address is locked too, in case there are none.
pub(crate) async fn lock_all_with_email(tx: &Tx, folded_email: &str, claimant: Option<UserId>) -> Result<Vec<User>> {
    throttles::lock(tx, "address", folded_email).await?;
    let with_email = Condition::any().add(user::Column::FoldedEmail.eq(folded_email));
    let with_email = user::Entity::find().filter(with_email.add_option(claimant.map(|id| user::Column::Id.eq(id))));
    Ok(with_email.order_by_asc(user::Column::Id).lock(LockType::NoKeyUpdate).all(tx.db()).await?)
}

pub(crate) async fn insert(tx: &Tx, user: User) -> Result<()> {
    let user = User { folded_name: user.name.as_deref().map(str::to_lowercase), ..user };
    user::Entity::insert(user.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Stores a user that the caller has locked.
pub(crate) async fn update(tx: &Tx, user: &User) -> Result<()> {
    let folded_name = user.name.as_deref().map(str::to_lowercase);
    let row = User { folded_name, ..user.clone() }.into_active_model().reset_all();
    let row = user::ActiveModel { created_at: NotSet, ..row };
    user::Entity::update(row).exec(tx.db()).await?;
    Ok(())
}

/// Deletes a user. Fails if they have licenses or entitlements.
pub(crate) async fn delete(tx: &Tx, id: UserId) -> Result<()> {
    user::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Deletes sign-ups that were not verified within a week. Returns how many.
pub(crate) async fn delete_unverified(core: &Core) -> Result<u64> {
    let cutoff = core.clock.now() - TimeDelta::days(7);
    let expired = user::Column::Status.eq(AccountStatus::Pending).and(user::Column::CreatedAt.lt(cutoff));
    db::delete_in_batches(core.db.writer(), user::Column::Id, expired).await
}

/// Users whose deletion is due.
pub(crate) async fn list_due_for_deletion(core: &Core) -> Result<Vec<UserId>> {
    let due = user::Entity::find().filter(user::Column::DeletionAt.lte(core.clock.now())).all(core.db.read()).await?;
    Ok(due.into_iter().map(|user| user.id).collect())
}

/// The active users with this role or a higher one, oldest first.
pub(crate) async fn list_with_role(core: &Core, least: Role) -> Result<Vec<User>> {
    let roles = Role::ALL.iter().copied().filter(|role| *role >= least);
    let active = user::Entity::find().filter(user::Column::Status.eq(AccountStatus::Active));
    let found = active.filter(user::Column::Role.is_in(roles)).order_by_asc(user::Column::Id);
    Ok(found.all(core.db.read()).await?)
}

/// Whether a user has, or ever had, an entitlement of any tenant.
pub(crate) async fn is_holder(tx: &Tx, user: UserId) -> Result<bool> {
    Ok(holder::Entity::find().filter(holder::Column::UserId.eq(user)).one(tx.db()).await?.is_some())
}

/// Locks everything about a user's licenses with a tenant, even if there are none yet.
pub(crate) async fn lock_holder(tx: &Tx, tenant: TenantId, user: UserId) -> Result<()> {
    lock_holders(tx, tenant, vec![user]).await
}

/// Like [`lock_holder`] for several users, in the order of their ids.
pub(crate) async fn lock_holders(tx: &Tx, tenant: TenantId, mut users: Vec<UserId>) -> Result<()> {
    users.sort_unstable();
    users.dedup();
    let rows = users.into_iter().map(|user_id| holder::Model { tenant_id: tenant, user_id }.into_active_model());
    // An update that changes nothing locks the row that exists.
    let mut lock = OnConflict::columns([holder::Column::TenantId, holder::Column::UserId]);
    lock.update_column(holder::Column::TenantId);
    holder::Entity::insert_many(rows).on_conflict(lock).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// The tenants in which a user holds, or ever held, something.
pub(crate) async fn holder_tenants(tx: &Tx, user: UserId) -> Result<Vec<TenantId>> {
    let rows = holder::Entity::find().filter(holder::Column::UserId.eq(user)).order_by_asc(holder::Column::TenantId);
    Ok(rows.all(tx.db()).await?.into_iter().map(|row| row.tenant_id).collect())
}

/// Deletes the holder rows of a user whose licenses were moved to another one.
pub(crate) async fn delete_holders(tx: &Tx, user: UserId) -> Result<()> {
    holder::Entity::delete_many().filter(holder::Column::UserId.eq(user)).exec(tx.db()).await?;
    Ok(())
}
