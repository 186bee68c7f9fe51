//! Licenses: issue, show, validate and revoke.
//!
//! ```text
//! entitlements -> apply(Issue | Revoke) -> row + events (+ delivery)
//! validate: parse key (no I/O) -> find -> judge (pure) -> first VALID? -> activate
//! expire, end of grace: every read computes the state from the clock; workers only record the events
//! ```
//! Invariants: at most one unrevoked license per user and product; a revoked license stays revoked; the
//! key is stored as an HMAC for lookup and encrypted for display, never in plain text.

use chrono::{DateTime, Utc};
use sea_orm::ColumnTrait;

use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::events::{EventData, NewEvent};
use crate::ids::{LicenseId, ProductId, UserId};
use crate::products::{self, Policy, Product};
use crate::{AppCaller, Caller, Core, Reason, Result, Scope, entity::license::Column, guilds, tx::Tx};

mod state;
mod store;
mod verdict;

pub use self::state::{LicenseFacts, LicenseState};
pub use self::store::list_of;
pub(crate) use self::store::{find, get, list_lapsed, lock, lock_unrevoked, next_lapse, set_sources_end};
pub use self::verdict::{Question, Verdict, VerdictCode, judge};
pub use crate::entity::license::Model as License;

/// Why a license was revoked after its last source.
pub(crate) const ENTITLEMENT_LOST: &str = "entitlement_lost";

/// A change to a license.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// Issues a license under a policy; assigns it at once if there is an owner.
    Issue { product: &'a Product, policy: &'a Policy, owner: Option<UserId> },
    /// Revokes a license.
    Revoke { license: &'a License, reason: &'a str },
}

/// Applies one action to locked rows and records what happened.
pub(crate) async fn apply(tx: &mut Tx, caller: &Caller, action: Action<'_>) -> Result<License> {
    match action {
        Action::Issue { product, policy, owner } => issue(tx, caller, product, policy, owner).await,
        Action::Revoke { license, reason } => set_revoked(tx, caller, license, reason).await,
    }
}

async fn issue(
    tx: &mut Tx,
    caller: &Caller,
    product: &Product,
    policy: &Policy,
    owner: Option<UserId>,
) -> Result<License> {
    let core = tx.core().clone();
    let now = tx.now();
    let assigned_at = owner.map(|_| now);
    let duration = assigned_at.zip(policy.duration_s.map(chrono::Duration::seconds));
    let expires_at = duration.and_then(|(start, duration)| start.checked_add_signed(duration));
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
            sources_end_at: None,
            revoked_at: None,
            revoke_reason: None,
            rev: 1,
        };
        if store::insert(tx, license.clone()).await? {
            break license;
        }
    };
    let created = EventData::LicenseCreated { state: LicenseState::Generated, product_id: product.id };
    record(tx, caller, &license, created);
    if owner.is_some() {
        let (from, state) = (LicenseState::Generated, LicenseState::Assigned);
        record(tx, caller, &license, EventData::LicenseAssigned { from, state });
    }
    Ok(license)
}

async fn set_revoked(tx: &mut Tx, caller: &Caller, license: &License, reason: &str) -> Result<License> {
    if license.revoked_at.is_some() {
        return Err(Reason::AlreadyRevoked.refusal());
    }
    let from = LicenseFacts { sources_end_at: None, ..LicenseFacts::from(license) }.state(tx.now());
    let changes = [(Column::RevokedAt, tx.now().into()), (Column::RevokeReason, reason.into())];
    store::update(tx, license.id, changes).await?;
    let (state, reason) = (LicenseState::Revoked, reason.to_owned());
    record(tx, caller, license, EventData::LicenseRevoked { from, state, reason: reason.clone() });
    Ok(License { revoked_at: Some(tx.now()), revoke_reason: Some(reason), ..license.clone() })
}

fn record(tx: &mut Tx, caller: &Caller, license: &License, data: EventData) {
    let event = NewEvent::tenant(license.tenant_id, caller.actor(), data);
    tx.record(NewEvent { subject: license.user_id, license: Some(license.id), ..event });
}

/// Moves the licenses of a user to another one. Of two unrevoked licenses for one product the one in use is kept,
/// or else that of `into`; the other one is revoked. The caller has locked both holders.
pub(crate) async fn merge_users(tx: &mut Tx, caller: &Caller, from: UserId, into: UserId) -> Result<()> {
    let kept = store::lock_all_unrevoked(tx, into).await?;
    for license in store::lock_all_unrevoked(tx, from).await? {
        if let Some(other) = kept.iter().find(|kept| kept.product_id == license.product_id) {
            let is_in_use = license.first_valid_at.is_some() && other.first_valid_at.is_none();
            let ended = if is_in_use { other.clone() } else { License { user_id: Some(into), ..license } };
            set_revoked(tx, caller, &ended, "accounts_merged").await?;
        }
    }
    store::set_user(tx, from, into).await
}

/// Issues a license that is not assigned to anyone. Returns it with its key.
pub async fn generate(core: &Core, caller: &Caller, product: ProductId) -> Result<(License, String)> {
    let mut tx = Tx::begin(core).await?;
    let (product, policy) = products::get_with_policy(&tx, product, None).await?;
    let issue = Action::Issue { product: &product, policy: &policy, owner: None };
    let license = apply(&mut tx, caller, issue).await?;
    tx.commit().await?;
    let key = reveal_key(core, &license)?;
    Ok((license, key))
}

/// Decrypts a license's key, to show it to its holder. Fails if the ciphertext cannot be decrypted.
pub fn reveal_key(core: &Core, license: &License) -> Result<String> {
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
    pub expires_at: Option<DateTime<Utc>>,
    /// When its grace ends, if nothing entitles the member any more.
    pub ends_at: Option<DateTime<Utc>>,
}

/// A license that ended, as shown to the member who had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLicense {
    /// The product's name.
    pub product: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Whether an admin revoked it; otherwise, nothing entitled the member any more.
    pub by_admin: bool,
}

/// What is sent to the holder of a new license.
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct KeyMessage {
    pub holder: UserId,
    pub server: String,
    pub license: MemberLicense,
}

fn member_license(core: &Core, license: &License, product: &str) -> Result<MemberLicense> {
    Ok(MemberLicense {
        product: product.to_owned(),
        id: license.id,
        key: reveal_key(core, license)?,
        state: license.state(core.clock.now()),
        expires_at: license.expires_at,
        ends_at: license.sources_end_at,
    })
}

/// A user's licenses with a tenant that are not revoked.
pub async fn list_usable(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<MemberLicense>> {
    let products = products::names(core, scope).await?;
    let licenses = store::list_of(core, scope, user).await?;
    let name = |id| products.get(&id).map_or("", String::as_str);
    let now = core.clock.now();
    let unrevoked = licenses.iter().filter(|license| license.state(now) != LicenseState::Revoked);
    unrevoked.map(|license| member_license(core, license, name(license.product_id))).collect()
}

/// The license of each product that a user had last with a tenant, if it has ended.
pub async fn list_ended(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<EndedLicense>> {
    let (now, licenses) = (core.clock.now(), store::list_of(core, scope, user).await?);
    let mut ended = Vec::new();
    for product in products::list(core, scope).await? {
        let of_product = licenses.iter().filter(|license| license.product_id == product.id);
        // `None` if one of them has not ended.
        let all: Option<Vec<_>> = of_product.map(|license| Some((license.ended_at(now)?, license))).collect();
        let Some((at, last)) = all.into_iter().flatten().max_by_key(|(at, _)| *at) else { continue };
        let by_admin = last.revoke_reason.as_deref().is_some_and(|reason| reason != ENTITLEMENT_LOST);
        ended.push(EndedLicense { product: product.name, at, by_admin });
    }
    Ok(ended)
}

/// What to send to the holder of a license; `None` if it was revoked meanwhile or has no holder.
pub async fn for_delivery(core: &Core, id: LicenseId) -> Result<Option<KeyMessage>> {
    let Some(license) = store::find_unrevoked(core, id).await? else { return Ok(None) };
    if license.state(core.clock.now()) == LicenseState::Revoked {
        return Ok(None);
    }
    let Some(holder) = license.user_id else { return Ok(None) };
    let product = products::find(core, license.product_id).await?;
    let server = guilds::server_name(core, license.tenant_id).await?;
    Ok(Some(KeyMessage { holder, server, license: member_license(core, &license, &product.name)? }))
}

/// Records that the holder of a license does not accept messages, so that they do not have its key.
pub async fn record_undelivered_key(core: &Core, id: LicenseId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    record(&mut tx, &Caller::System(Scope::of(license.tenant_id)), &license, EventData::KeyUndelivered {});
    tx.commit().await
}

/// Validates a key for an app. A key that cannot be used is a [`Verdict`], not an error.
pub async fn validate(core: &Core, app: &AppCaller, question: &Question) -> Result<Verdict> {
    let now = core.clock.now();
    let implied_prefixes: Vec<String> = app.products.iter().map(|product| product.prefix.clone()).collect();
    let key = match LicenseKey::parse(&question.key, &implied_prefixes) {
        Ok(key) => key,
        Err(malformed) => {
            let verdict = Verdict::without_license(VerdictCode::MalformedKey, now);
            return Ok(Verdict { malformed: Some(malformed), ..verdict });
        }
    };
    let lookups = core.keys().macs(Purpose::LicenseLookup, &key.canonical());
    let facts = store::find_by_lookup(core, lookups).await?.as_ref().map(LicenseFacts::from);
    let verdict = judge(facts, app, question.product, now);
    match &verdict.license {
        Some((license, LicenseState::Assigned)) => activate(core, app, license.id, now).await,
        _ => Ok(verdict),
    }
}

/// Activates a license at its first `VALID`; a concurrent request may have done so already.
async fn activate(core: &Core, app: &AppCaller, id: LicenseId, asked_at: DateTime<Utc>) -> Result<Verdict> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    let (now, facts) = (tx.now(), LicenseFacts::from(&license));
    let verdict = judge(Some(facts.clone()), app, None, now);
    let Some((_, from @ LicenseState::Assigned)) = verdict.license else {
        return Ok(Verdict { checked_at: asked_at, ..verdict });
    };
    store::update(&tx, id, [(Column::ActivatedAt, now.into()), (Column::FirstValidAt, now.into())]).await?;
    let activated = EventData::LicenseActivated { from, state: LicenseState::Active };
    record(&mut tx, &Caller::App(app.clone()), &license, activated);
    tx.commit().await?;
    Ok(judge(Some(LicenseFacts { first_valid_at: Some(now), ..facts }), app, None, now))
}

/// Finds a license of a tenant by id or key. Refused with `NOT_FOUND`, or `MALFORMED_KEY` if the text is neither an id
/// nor a key.
pub async fn inspect(core: &Core, scope: &Scope, id_or_key: &str) -> Result<(License, LicenseState)> {
    let license = if let Ok(id) = id_or_key.parse() {
        store::get(core, scope, LicenseId(id)).await?
    } else {
        let key = LicenseKey::parse(id_or_key, &[]);
        let key = key.map_err(|malformed| Reason::NeitherIdNorKey { malformed }.refusal())?;
        let lookups = core.keys().macs(Purpose::LicenseLookup, &key.canonical());
        let found = store::find_in_scope(core, scope, Column::KeyLookup.is_in(lookups)).await?;
        found.ok_or_else(|| Reason::NoLicense.refusal())?
    };
    let state = license.state(core.clock.now());
    Ok((license, state))
}

/// Records an event for each expired license, exactly once. Returns how many.
pub async fn announce_expired(core: &Core) -> Result<u64> {
    const BATCH: u64 = 100;
    let mut announced = 0;
    loop {
        let batch = store::list_unannounced(core, core.clock.now(), BATCH).await?;
        for &id in &batch {
            announced += u64::from(announce(core, id).await?);
        }
        if (batch.len() as u64) < BATCH {
            return Ok(announced);
        }
    }
}

async fn announce(core: &Core, id: LicenseId) -> Result<bool> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    if license.expired_seen_at.is_some() || license.revoked_at.is_some() {
        return Ok(false);
    }
    store::update(&tx, id, [(Column::ExpiredSeenAt, tx.now().into())]).await?;
    let system = Caller::System(Scope::of(license.tenant_id));
    record(
        &mut tx,
        &system,
        &license,
        EventData::LicenseExpired { state: LicenseState::Expired, expires_at: license.expires_at },
    );
    tx.commit().await?;
    Ok(true)
}
