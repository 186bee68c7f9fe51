//! Licenses: issue, show, validate and revoke.
//!
//! ```text
//! entitlements::apply_decision -> apply(Issue | Revoke) -> row + events (+ delivery)
//! validate: parse key (no I/O) -> find -> judge (pure) -> first VALID? -> activate
//! expire:   every read computes the state from the clock; `announce_expired` only records the event
//! ```
//! Invariants: at most one unrevoked license per user and product; a revoked license stays revoked; the
//! key is stored as an HMAC for lookup and encrypted for display, never in plain text.

use serde_json::{Value, json};

use crate::{
    Caller, Code, Core, Result, Scope, Snowflake,
    crypto::{license_key::LicenseKey, seal::Purpose},
    entitlements,
    entity::license::Column,
    events::{Actor, EventKind, NewEvent},
    ids::{LicenseId, ProductId, UserId},
    products::{Policy, Product},
    tx::Tx,
    users,
};

mod state;
mod store;
mod verdict;

pub(crate) use self::store::lock_unrevoked;
pub use self::{
    state::{LicenseState, state},
    verdict::{Question, Verdict, judge},
};
pub use crate::entity::license::Model as License;

/// A change to a license.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// Issues a license under a policy; assigns it at once if there is an owner.
    Issue { product: &'a Product, policy: &'a Policy, owner: Option<UserId> },
    /// Revokes a license.
    Revoke { license: &'a License, reason: &'a str },
}

/// Applies one action to locked rows and records what happened.
pub(crate) async fn apply(tx: &mut Tx, actor: &Actor, action: Action<'_>) -> Result<License> {
    match action {
        Action::Issue { product, policy, owner } => issue(tx, actor, product, policy, owner).await,
        Action::Revoke { license, reason } => set_revoked(tx, actor, license, reason).await,
    }
}

async fn issue(
    tx: &mut Tx,
    actor: &Actor,
    product: &Product,
    policy: &Policy,
    owner: Option<UserId>,
) -> Result<License> {
    let core = tx.core().clone();
    let now = tx.now();
    let assigned_at = owner.map(|_| now);
    let expires_at = assigned_at
        .zip(policy.duration_s)
        .and_then(|(start, s)| start.checked_add_signed(chrono::Duration::seconds(s)));
    let license = loop {
        let id = LicenseId(core.ids.v7(now));
        let key = LicenseKey::new(&product.prefix, core.ids.v4());
        let license = License {
            id,
            tenant_id: product.tenant_id,
            product_id: product.id,
            policy_id: policy.id,
            user_id: owner,
            key_lookup: core.keys().mac(Purpose::LicenseLookup, &key.canonical()),
            key_sealed: core.keys().seal(&core.ids, Purpose::LicenseSeal, id.0, &key.display(&product.prefix)),
            key_hint: key.hint(&product.prefix),
            created_at: now,
            assigned_at,
            activated_at: None,
            first_valid_at: None,
            expires_at,
            expired_seen_at: None,
            revoked_at: None,
            revoke_reason: None,
            rev: 1,
        };
        if store::insert(tx, license.clone()).await? {
            break license;
        }
    };
    record(
        tx,
        actor,
        &license,
        EventKind::LicenseCreated,
        None,
        json!({ "state": LicenseState::Generated, "productId": product.id }),
    );
    if owner.is_some() {
        record(
            tx,
            actor,
            &license,
            EventKind::LicenseAssigned,
            Some(LicenseState::Generated),
            json!({ "state": LicenseState::Assigned }),
        );
    }
    Ok(license)
}

async fn set_revoked(tx: &mut Tx, actor: &Actor, license: &License, reason: &str) -> Result<License> {
    let before = state(license, tx.now());
    if !before.may_revoke() {
        return Err(Code::InvalidTransition.because("This license is already revoked."));
    }
    let times = [(Column::RevokedAt, tx.now().into()), (Column::RevokeReason, reason.into())];
    store::touch(tx, license.id, times).await?;
    let after = json!({ "state": LicenseState::Revoked, "reason": reason });
    record(tx, actor, license, EventKind::LicenseRevoked, Some(before), after);
    Ok(License { revoked_at: Some(tx.now()), revoke_reason: Some(reason.to_owned()), ..license.clone() })
}

fn record(tx: &mut Tx, actor: &Actor, license: &License, kind: EventKind, before: Option<LicenseState>, after: Value) {
    tx.record(NewEvent {
        tenant: license.tenant_id,
        kind,
        actor: actor.clone(),
        subject: license.user_id,
        license: Some(license.id),
        before: before.map(|state| json!({ "state": state })),
        after: Some(after),
    });
}

/// Issues a license that is not assigned to anyone. Returns it with its key.
pub async fn generate(core: &Core, caller: &Caller, product: ProductId) -> Result<(License, String)> {
    let mut tx = Tx::begin(core).await?;
    let (product, policy) = crate::products::get_current(&tx, product).await?;
    let license =
        apply(&mut tx, &caller.actor, Action::Issue { product: &product, policy: &policy, owner: None }).await?;
    tx.commit().await?;
    let key = reveal(core, &license)?;
    Ok((license, key))
}

/// Decrypts a license's key, to show it to its holder.
///
/// # Errors
/// Fails if the ciphertext cannot be decrypted.
pub fn reveal(core: &Core, license: &License) -> Result<String> {
    core.keys().unseal(Purpose::LicenseSeal, license.id.0, &license.key_sealed)
}

/// A license as shown to its holder.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberLicense {
    /// The product's name.
    pub product: String,
    /// The license.
    pub id: LicenseId,
    /// The key in plain text; only for the holder.
    pub key: String,
    /// Its state.
    pub state: LicenseState,
    /// When it expires, if it does.
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

fn member_license(core: &Core, license: &License, product: &str) -> Result<MemberLicense> {
    Ok(MemberLicense {
        product: product.to_owned(),
        id: license.id,
        key: reveal(core, license)?,
        state: state(license, core.clock.now()),
        expires_at: license.expires_at,
    })
}

/// A member's licenses with a tenant that are not revoked.
pub async fn list_usable(core: &Core, scope: &Scope, member: Snowflake) -> Result<Vec<MemberLicense>> {
    let products = crate::products::list(core, scope).await?;
    let licenses = list_of(core, scope, member).await?;
    let name = |id| products.iter().find(|product| product.id == id).map_or("", |product| product.name.as_str());
    let unrevoked = licenses.iter().filter(|license| license.revoked_at.is_none());
    unrevoked.map(|license| member_license(core, license, name(license.product_id))).collect()
}

/// All licenses of a member with a tenant, including revoked ones, newest first.
pub async fn list_of(core: &Core, scope: &Scope, member: Snowflake) -> Result<Vec<License>> {
    match users::find_by_discord(core, member).await? {
        Some(user) => store::list_of(core, scope, user).await,
        None => Ok(Vec::new()),
    }
}

/// The holder's Discord account and the license to send them; `None` if the license was revoked
/// meanwhile or has no holder on Discord.
pub async fn for_delivery(core: &Core, id: LicenseId) -> Result<Option<(Snowflake, MemberLicense)>> {
    let Some(license) = store::find(core, id).await?.filter(|license| license.revoked_at.is_none()) else {
        return Ok(None);
    };
    let Some(user) = license.user_id else { return Ok(None) };
    let Some(member) = users::discord_id(core, user).await? else { return Ok(None) };
    let product = crate::products::get(core, &Scope::of(license.tenant_id), &license.product_id.to_string()).await?;
    Ok(Some((member, member_license(core, &license, &product.name)?)))
}

/// Validates a key for an app. A key that cannot be used is a [`Verdict`], not an error.
pub async fn validate(core: &Core, caller: &Caller, question: &Question) -> Result<Verdict> {
    let now = core.clock.now();
    let implied_prefixes: Vec<String> = caller.products.iter().map(|product| product.prefix.clone()).collect();
    let key = match LicenseKey::parse(&question.key, &implied_prefixes) {
        Ok(key) => key,
        Err(malformed) => {
            let detail = format!("This is not a license key: {malformed}.");
            return Ok(Verdict {
                detail,
                position: malformed.position(),
                ..Verdict::without_license(Code::MalformedKey, now)
            });
        }
    };
    let lookup = core.keys().mac(Purpose::LicenseLookup, &key.canonical());
    let license = store::find_by_lookup(core.db.read(), lookup).await?;
    let verdict = judge(license, caller, question.product, now);
    match &verdict.license {
        Some((license, LicenseState::Assigned)) => activate(core, caller, license.id, verdict.clone()).await,
        _ => Ok(verdict),
    }
}

/// Activates a license at its first `VALID`; a concurrent request may have done so already.
async fn activate(core: &Core, caller: &Caller, id: LicenseId, first: Verdict) -> Result<Verdict> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    let now = tx.now();
    let verdict = judge(Some(license.clone()), caller, None, now);
    if !matches!(verdict.license, Some((_, LicenseState::Assigned))) {
        return Ok(Verdict { checked_at: first.checked_at, ..verdict });
    }
    store::touch(&tx, id, [(Column::ActivatedAt, now.into()), (Column::FirstValidAt, now.into())]).await?;
    record(
        &mut tx,
        &caller.actor,
        &license,
        EventKind::LicenseActivated,
        Some(LicenseState::Assigned),
        json!({ "state": LicenseState::Active }),
    );
    tx.commit().await?;
    let license = License { activated_at: Some(now), first_valid_at: Some(now), ..license };
    Ok(judge(Some(license), caller, None, now))
}

/// Finds a license of a tenant by id or key.
///
/// # Errors
/// `NOT_FOUND`, or `MALFORMED_KEY` if the text is neither an id nor a key.
pub async fn inspect(core: &Core, scope: &Scope, id_or_key: &str) -> Result<(License, LicenseState)> {
    let license = if let Ok(id) = id_or_key.parse() {
        store::get(core, scope, LicenseId(id)).await?
    } else {
        let key = LicenseKey::parse(id_or_key, &[])
            .map_err(|malformed| Code::MalformedKey.because(format!("Neither a license id nor a key: {malformed}.")))?;
        let lookup = core.keys().mac(Purpose::LicenseLookup, &key.canonical());
        let found = store::find_by_lookup(core.db.read(), lookup).await?;
        let in_tenant = found.filter(|license| license.tenant_id == scope.tenant());
        in_tenant.ok_or_else(|| Code::NotFound.because(verdict::NO_SUCH_LICENSE))?
    };
    let state = state(&license, core.clock.now());
    Ok((license, state))
}

/// Revokes a license now and consumes its sources, so that the holder's roles do not issue a new one.
///
/// # Errors
/// `NOT_FOUND`; `INVALID_TRANSITION` if it is already revoked; `VALIDATION_ERROR` if the reason is too long.
pub async fn revoke(core: &Core, caller: &Caller, id: LicenseId, reason: &str) -> Result<License> {
    let owner = store::get(core, &caller.scope, id).await?.user_id;
    let mut tx = Tx::begin(core).await?;
    if let Some(owner) = owner {
        users::lock_holder(&tx, caller.scope.tenant(), owner).await?;
    }
    let license = store::lock(&tx, id).await?;
    let license = revoke_locked(&mut tx, caller, &license, reason).await?;
    tx.commit().await?;
    Ok(license)
}

/// Revokes a member's license for a product, like [`revoke`].
///
/// # Errors
/// `NOT_FOUND` if the member has none; `VALIDATION_ERROR` if the reason is too long.
pub async fn revoke_member_license(
    core: &Core,
    caller: &Caller,
    member: Snowflake,
    product: ProductId,
    reason: &str,
) -> Result<License> {
    let none = || {
        Code::NotFound
            .because("This member has no license for that product. Use `/license show` to see their licenses.")
    };
    let owner = users::find_by_discord(core, member).await?.ok_or_else(none)?;
    let mut tx = Tx::begin(core).await?;
    users::lock_holder(&tx, caller.scope.tenant(), owner).await?;
    let license = store::lock_unrevoked(&tx, owner, product).await?.ok_or_else(none)?;
    let license = revoke_locked(&mut tx, caller, &license, reason).await?;
    tx.commit().await?;
    Ok(license)
}

async fn revoke_locked(tx: &mut Tx, caller: &Caller, license: &License, reason: &str) -> Result<License> {
    if reason.chars().count() > 200 {
        return Err(Code::ValidationError.because("The reason is too long. Use at most 200 characters."));
    }
    let license = apply(tx, &caller.actor, Action::Revoke { license, reason }).await?;
    if let Some(owner) = license.user_id {
        entitlements::consume(tx, owner, license.product_id).await?;
    }
    Ok(license)
}

/// Records an event for each expired license, exactly once. Returns how many.
pub async fn announce_expired(core: &Core) -> Result<u64> {
    let mut announced = 0;
    loop {
        let batch = store::list_unannounced(core, core.clock.now(), 100).await?;
        for &id in &batch {
            announced += u64::from(announce(core, id).await?);
        }
        if batch.len() < 100 {
            return Ok(announced);
        }
    }
}

async fn announce(core: &Core, id: LicenseId) -> Result<bool> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    if license.expired_seen_at.is_some() || state(&license, tx.now()) != LicenseState::Expired {
        return Ok(false);
    }
    store::touch(&tx, id, [(Column::ExpiredSeenAt, tx.now().into())]).await?;
    let after = json!({ "state": LicenseState::Expired, "expiresAt": license.expires_at });
    record(&mut tx, &Actor::System, &license, EventKind::LicenseExpired, None, after);
    tx.commit().await?;
    Ok(true)
}
