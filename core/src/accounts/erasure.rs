//! A person's data: to take away, and to take out.
//!
//! A deletion waits for 14 days. Signing in within them takes it back; then everything personal goes. What a
//! person holds in a shop stays with the shop, under the Discord account it was given to; the log keeps that
//! something happened to a number, and from which network.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};

use crate::{
    Code, Core, Result,
    accounts::{
        AccountStatus, ClientInfo, Principal, admin,
        emails::{self, EmailTemplate},
        one_time, record, second_factor, sessions,
    },
    entity::{credential, event, guild_manager, license, one_time_token, session},
    events::{Actor, EventKind},
    ids::UserId,
    throttles,
    tx::Tx,
    users::{self, Provider, User},
};

/// From the wish to the deed.
const DELETION_DELAY: TimeDelta = TimeDelta::days(14);
/// How long a sign-up that nobody proves is kept.
const UNVERIFIED_LIFETIME: TimeDelta = TimeDelta::days(7);

/// Everything kept about a person, as JSON.
///
/// # Errors
/// When the database does not answer.
pub async fn export(core: &Core, principal: &Principal) -> Result<Value> {
    let (id, db) = (principal.user.id, core.db.read());
    let identities = users::identities(core, id).await?;
    let sessions = session::Entity::find().filter(session::Column::UserId.eq(id)).all(db).await?;
    let licenses = license::Entity::find().filter(license::Column::UserId.eq(id)).all(db).await?;
    let events = event::Entity::find().filter(event::Column::Subject.eq(id));
    let events = events.order_by_asc(event::Column::Seq).all(db).await?;
    let document = json!({
        "exportedAt": core.clock.now(),
        "user": {
            "id": id, "email": principal.user.email, "emailVerifiedAt": principal.user.email_verified_at, "name": principal.user.name,
            "locale": principal.user.locale, "status": principal.user.status, "role": principal.user.role,
            "createdAt": principal.user.created_at, "registeredAt": principal.user.registered_at,
        },
        "hasSecondFactor": second_factor::is_enabled(core, id).await?,
        "manages": admin::managed_by(core, id).await?.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "identities": identities.iter().map(|identity| json!({
            "provider": identity.provider, "subject": identity.subject, "name": identity.name,
            "linkedAt": identity.created_at,
        })).collect::<Vec<_>>(),
        "sessions": sessions.iter().map(|session| json!({
            "id": session.id, "method": session.method, "agent": session.agent, "network": session.network,
            "createdAt": session.created_at, "lastSeenAt": session.last_seen_at, "endedAt": session.revoked_at,
        })).collect::<Vec<_>>(),
        "licenses": licenses.iter().map(|license| json!({
            "id": license.id, "productId": license.product_id, "keyHint": license.key_hint,
            "createdAt": license.created_at, "expiresAt": license.expires_at, "revokedAt": license.revoked_at,
        })).collect::<Vec<_>>(),
        "events": events.iter().map(|event| json!({
            "kind": event.kind, "actor": event.actor, "at": event.at, "after": event.after,
        })).collect::<Vec<_>>(),
    });
    let mut tx = Tx::begin(core).await?;
    record(&mut tx, EventKind::UserExported, &Actor::User(id), id, Value::Null);
    tx.commit().await?;
    Ok(document)
}

/// Plans the deletion of an account, and ends its sessions. Password and second factor are asked for again.
///
/// # Errors
/// `INVALID_CREDENTIALS`, `REQUIRES_2FA`, `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn plan(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: Option<&str>,
) -> Result<DateTime<Utc>> {
    second_factor::reauthenticate_with_mfa(core, client, principal, password, code).await?;
    let (id, mut tx) = (principal.user.id, Tx::begin(core).await?);
    let user = users::lock(&tx, id).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
    let at = plan_in(&mut tx, user, &Actor::User(id)).await?;
    tx.commit().await?;
    Ok(at)
}

pub(crate) async fn plan_in(tx: &mut Tx, mut user: User, actor: &Actor) -> Result<DateTime<Utc>> {
    let (id, at) = (user.id, user.deletion_at.unwrap_or(tx.now() + DELETION_DELAY));
    user.deletion_at = Some(at);
    users::update(tx, &user).await?;
    sessions::end_all(tx, id, None, actor, "deletion").await?;
    record(tx, EventKind::DeletionPlanned, actor, id, json!({ "at": at }));
    emails::send(tx, EmailTemplate::DeletionPlanned, id, None).await?;
    Ok(at)
}

/// Erases whose time has come, and forgets what is over. Answers how many were erased.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep(core: &Core) -> Result<usize> {
    let due = users::list_due_for_deletion(core).await?;
    let mut erased = 0;
    for user in due {
        match erase(core, user).await {
            Ok(()) => erased += 1,
            Err(error) => tracing::error!(%user, %error, "an account could not be erased; it is tried again"),
        }
    }
    users::delete_unverified(core, core.clock.now() - UNVERIFIED_LIFETIME).await?;
    one_time::delete_old(core).await?;
    sessions::delete_old(core).await?;
    throttles::delete_old(core).await?;
    Ok(erased)
}

async fn erase(core: &Core, id: UserId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let Some(user) = users::lock(&tx, id).await? else { return Ok(()) };
    // Signed in meanwhile: they stay.
    if user.deletion_at.is_none_or(|at| at > tx.now()) {
        return Ok(());
    }
    let db = tx.db();
    credential::Entity::delete_by_id(id).exec(db).await?;
    session::Entity::delete_many().filter(session::Column::UserId.eq(id)).exec(db).await?;
    one_time_token::Entity::delete_many().filter(one_time_token::Column::UserId.eq(id)).exec(db).await?;
    guild_manager::Entity::delete_many().filter(guild_manager::Column::UserId.eq(id)).exec(db).await?;
    second_factor::remove(&tx, id).await?;
    // A ban outlives the account: its number at the provider stays, and nothing else.
    let is_kept_out = user.status()? != AccountStatus::Active;
    if is_kept_out || users::is_holder(&tx, id).await? {
        if !is_kept_out {
            users::unlink(&tx, Provider::Google, id).await?;
        }
        users::delete_provider_tokens(&tx, id).await?;
        let (status, status_reason) = (user.status, user.status_reason);
        users::update(&tx, &User { status, status_reason, ..users::seen(id, user.created_at) }).await?;
    } else {
        users::delete(&tx, id).await?;
    }
    record(&mut tx, EventKind::UserErased, &Actor::System, id, Value::Null);
    tx.commit().await
}
