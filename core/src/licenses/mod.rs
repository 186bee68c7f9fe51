//! Licenses, in the order of their life: issued, shown to their holder, asked about, ended.
//!
//! ```text
//! entitlements::settle -> apply(Issue | Revoke) -> row + events (+ delivery)
//! validate: parse key (no I/O) -> find -> judge (pure) -> first VALID? -> activate
//! expire:   the clock decides at every read; `announce_expired` only tells, once
//! ```
//! Invariants: one license per member and product that is not revoked; revoked is terminal; the key
//! is kept as an HMAC to find it and as ciphertext to show it again, never in the clear.

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
    /// A new license under these rules; somebody's at once when there is an owner.
    Issue { product: &'a Product, policy: &'a Policy, owner: Option<UserId> },
    /// The end.
    Revoke { license: &'a License, reason: &'a str },
}

/// Applies one action to locked rows and records what happened.
pub(crate) async fn apply(tx: &mut Tx, actor: &Actor, action: Action<'_>) -> Result<License> {
    match action {
        Action::Issue { product, policy, owner } => issue(tx, actor, product, policy, owner).await,
        Action::Revoke { license, reason } => end(tx, actor, license, reason).await,
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
    let expires_at =
        assigned_at.zip(policy.duration_s).and_then(|(at, s)| at.checked_add_signed(chrono::Duration::seconds(s)));
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

async fn end(tx: &mut Tx, actor: &Actor, license: &License, reason: &str) -> Result<License> {
    let before = state(license, tx.now());
    if !before.may_revoke() {
        return Err(Code::InvalidTransition.because("That license is revoked already."));
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

/// A license that is nobody's yet, with its key.
///
/// # Errors
/// When the database does not answer.
pub async fn generate(core: &Core, caller: &Caller, product: ProductId) -> Result<(License, String)> {
    let mut tx = Tx::begin(core).await?;
    let (product, policy) = crate::products::get_current(&tx, product).await?;
    let license =
        apply(&mut tx, &caller.actor, Action::Issue { product: &product, policy: &policy, owner: None }).await?;
    tx.commit().await?;
    let key = reveal(core, &license)?;
    Ok((license, key))
}

/// The key in the clear, for its holder's eyes.
///
/// # Errors
/// When the ciphertext does not open.
pub fn reveal(core: &Core, license: &License) -> Result<String> {
    core.keys().open_sealed(Purpose::LicenseSeal, license.id.0, &license.key_sealed)
}

/// What a member is told about a license of theirs.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberLicense {
    /// The product's name.
    pub product: String,
    /// The license.
    pub id: LicenseId,
    /// The key in the clear: for the member alone.
    pub key: String,
    /// Its state.
    pub state: LicenseState,
    /// When it ends, if it does.
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

fn held(core: &Core, license: &License, product: &str) -> Result<MemberLicense> {
    Ok(MemberLicense {
        product: product.to_owned(),
        id: license.id,
        key: reveal(core, license)?,
        state: state(license, core.clock.now()),
        expires_at: license.expires_at,
    })
}

/// The licenses a member holds with a tenant and can still use or see expire.
///
/// # Errors
/// When the database does not answer.
pub async fn list_usable(core: &Core, scope: &Scope, member: Snowflake) -> Result<Vec<MemberLicense>> {
    let products = crate::products::list(core, scope).await?;
    let licenses = list_of(core, scope, member).await?;
    let name = |id| products.iter().find(|product| product.id == id).map_or("", |product| product.name.as_str());
    let standing = licenses.iter().filter(|license| license.revoked_at.is_none());
    standing.map(|license| held(core, license, name(license.product_id))).collect()
}

/// All licenses of a member with a tenant, ended ones too, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list_of(core: &Core, scope: &Scope, member: Snowflake) -> Result<Vec<License>> {
    match users::find_by_discord(core, member).await? {
        Some(user) => store::list_of(core, scope, user).await,
        None => Ok(Vec::new()),
    }
}

/// The holder's Discord account and what to tell them; `None` when the license has ended meanwhile
/// or is nobody's.
///
/// # Errors
/// When the database does not answer.
pub async fn for_delivery(core: &Core, id: LicenseId) -> Result<Option<(Snowflake, MemberLicense)>> {
    let Some(license) = store::find(core, id).await?.filter(|license| license.revoked_at.is_none()) else {
        return Ok(None);
    };
    let Some(user) = license.user_id else { return Ok(None) };
    let Some(member) = users::discord_id(core, user).await? else { return Ok(None) };
    let product = crate::products::get(core, &Scope::of(license.tenant_id), &license.product_id.to_string()).await?;
    Ok(Some((member, held(core, &license, &product.name)?)))
}

/// Answers an app. Never fails for anything about the key: a verdict is a value.
///
/// # Errors
/// When the database does not answer.
pub async fn validate(core: &Core, caller: &Caller, question: &Question) -> Result<Verdict> {
    let now = core.clock.now();
    let implied: Vec<String> = caller.products.iter().map(|product| product.prefix.clone()).collect();
    let key = match LicenseKey::parse(&question.key, &implied) {
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

/// The first VALID of a license's life; whoever is second finds it done.
async fn activate(core: &Core, caller: &Caller, id: LicenseId, seen: Verdict) -> Result<Verdict> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    let now = tx.now();
    let verdict = judge(Some(license.clone()), caller, None, now);
    if !matches!(verdict.license, Some((_, LicenseState::Assigned))) {
        return Ok(Verdict { checked_at: seen.checked_at, ..verdict });
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

/// A license by id or by key, within a tenant.
///
/// # Errors
/// `NOT_FOUND`, or `MALFORMED_KEY` when it is neither.
pub async fn inspect(core: &Core, scope: &Scope, id_or_key: &str) -> Result<(License, LicenseState)> {
    let license = if let Ok(id) = id_or_key.parse() {
        store::get(core, scope, LicenseId(id)).await?
    } else {
        let key = LicenseKey::parse(id_or_key, &[])
            .map_err(|malformed| Code::MalformedKey.because(format!("Neither a license id nor a key: {malformed}.")))?;
        let lookup = core.keys().mac(Purpose::LicenseLookup, &key.canonical());
        let found = store::find_by_lookup(core.db.read(), lookup).await?;
        let mine = found.filter(|license| license.tenant_id == scope.tenant());
        mine.ok_or_else(|| Code::NotFound.because(verdict::NO_SUCH_LICENSE))?
    };
    let state = state(&license, core.clock.now());
    Ok((license, state))
}

/// Ends a license now, whatever its holder's roles say: those sources have had their license.
///
/// # Errors
/// `NOT_FOUND`; `INVALID_TRANSITION` when it is revoked already.
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

/// Ends the license a member holds for a product, as [`revoke`] does.
///
/// # Errors
/// `NOT_FOUND` when they hold none.
pub async fn revoke_member_license(
    core: &Core,
    caller: &Caller,
    member: Snowflake,
    product: ProductId,
    reason: &str,
) -> Result<License> {
    let none = || Code::NotFound.because("They hold no license for that product.");
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
        return Err(Code::ValidationError.because("A reason has at most 200 characters."));
    }
    let license = apply(tx, &caller.actor, Action::Revoke { license, reason }).await?;
    if let Some(owner) = license.user_id {
        entitlements::consume(tx, owner, license.product_id).await?;
    }
    Ok(license)
}

/// Tells of licenses whose time has run out, each exactly once, however late. Answers how many.
///
/// # Errors
/// When the database does not answer.
pub async fn announce_expired(core: &Core) -> Result<u64> {
    let mut told = 0;
    loop {
        let batch = store::list_unannounced(core, core.clock.now(), 100).await?;
        for &id in &batch {
            told += u64::from(announce(core, id).await?);
        }
        if batch.len() < 100 {
            return Ok(told);
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
