//! Export and deletion of personal data.
//!
//! A deletion takes effect after 14 days. If the user requested it, signing in before then cancels it; if an admin did,
//! only an admin can cancel it. Licenses stay with the tenant, under
//! the Discord account they were issued to. Events stay too, with the user's id and the network of the request.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};

use crate::accounts::sessions::{self, Principal};
use crate::accounts::totp;
use crate::accounts::{client::ClientInfo, emails, reauthentication::reauthenticate};
use crate::entity::{credential, event, guild_manager, license, one_time_token, session};
use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, AccountStatus, Provider, User};
use crate::{Core, Result, ids::UserId, outbox::EmailTemplate, tx::Tx};

/// The time between the request and the deletion.
const DELETION_DELAY: TimeDelta = TimeDelta::days(14);

/// Everything stored about a user, as JSON.
pub async fn export(core: &Core, principal: &Principal) -> Result<Value> {
    let (id, db) = (principal.user.id, core.db.read());
    let identities = users::identities(core, id).await?;
    let sessions = session::Entity::find().filter(session::Column::UserId.eq(id)).all(db).await?;
    let licenses = license::Entity::find().filter(license::Column::UserId.eq(id)).all(db).await?;
    let events = event::Entity::find().filter(event::Column::Subject.eq(id));
    let events = events.order_by_asc(event::Column::Seq).all(db).await?;
    let managed = guild_manager::Entity::find().filter(guild_manager::Column::UserId.eq(id)).all(db).await?;
    let document = json!({
        "exportedAt": core.clock.now(),
        "user": {
            "id": id, "email": principal.user.email, "emailVerifiedAt": principal.user.email_verified_at, "name": principal.user.name,
            "locale": principal.user.locale, "status": principal.user.status, "role": principal.user.role,
            "createdAt": principal.user.created_at, "registeredAt": principal.user.registered_at,
        },
        "hasSecondFactor": totp::is_enabled(core, id).await?,
        "manages": managed.iter().map(|row| row.guild_id.to_string()).collect::<Vec<_>>(),
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
    tx.record(NewEvent::account(Actor::User(id), id, EventData::UserExported {}));
    tx.commit().await?;
    Ok(document)
}

/// Schedules the deletion of an account and ends its sessions. Requires password and second factor again. Refused with
/// `INVALID_CREDENTIALS`, `INVALID_SESSION`, `REQUIRES_2FA`, `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn schedule(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: Option<&str>,
) -> Result<DateTime<Utc>> {
    let (tx, user) = reauthenticate(core, client, principal, password).await?.begin().await?;
    let (mut tx, _) = totp::check(tx, client, &user, code).await?;
    let deletion_at = schedule_deletion(&mut tx, user, &Actor::User(principal.user.id)).await?;
    tx.commit().await?;
    Ok(deletion_at)
}

pub(crate) async fn schedule_deletion(tx: &mut Tx, mut user: User, actor: &Actor) -> Result<DateTime<Utc>> {
    let (id, deletion_at) = (user.id, user.deletion_at.unwrap_or(tx.now() + DELETION_DELAY));
    let is_by_admin = *actor != Actor::User(id);
    user.deletion_at = Some(deletion_at);
    user.deletion_by_admin |= is_by_admin;
    users::update(tx, &user).await?;
    sessions::end_all(tx, id, None, actor, "deletion").await?;
    tx.record(NewEvent::account(actor.clone(), id, EventData::DeletionPlanned { at: deletion_at }));
    let template = if is_by_admin { EmailTemplate::DeletionByAdmin } else { EmailTemplate::DeletionPlanned };
    emails::send(tx, template, id, None).await?;
    Ok(deletion_at)
}

/// Erases the accounts whose deletion is due and returns how many.
pub(crate) async fn erase_due(core: &Core) -> Result<u64> {
    let due = users::list_due_for_deletion(core).await?;
    let mut erased = 0;
    for user in due {
        match erase(core, user).await {
            Ok(()) => erased += 1,
            Err(error) => tracing::error!(%user, %error, "account could not be erased; the next run tries again"),
        }
    }
    Ok(erased)
}

async fn erase(core: &Core, id: UserId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let Some(user) = users::lock_for_deletion(&tx, id).await? else { return Ok(()) };
    // The deletion was canceled after the list was read.
    if user.deletion_at.is_none_or(|at| at > tx.now()) {
        return Ok(());
    }
    let db = tx.db();
    credential::Entity::delete_by_id(id).exec(db).await?;
    session::Entity::delete_many().filter(session::Column::UserId.eq(id)).exec(db).await?;
    one_time_token::Entity::delete_many().filter(one_time_token::Column::UserId.eq(id)).exec(db).await?;
    guild_manager::Entity::delete_many().filter(guild_manager::Column::UserId.eq(id)).exec(db).await?;
    totp::remove(&tx, id).await?;
    // A suspension or ban outlives the account, so the user's id at the provider is kept.
    let is_blocked = user.status != AccountStatus::Active;
    if is_blocked || users::is_holder(&tx, id).await? {
        if !is_blocked {
            users::unlink(&tx, Provider::Google, id).await?;
        }
        users::delete_provider_tokens(&tx, id).await?;
        let (status, status_reason) = (user.status, user.status_reason);
        users::update(&tx, &User { status, status_reason, ..users::without_account(id, user.created_at) }).await?;
    } else {
        users::delete(&tx, id).await?;
    }
    tx.record(NewEvent::account(Actor::System, id, EventData::UserErased {}));
    tx.commit().await
}
