//! The commands of owners, managers and apps: each is one [`Change`], made by one function.
//!
//! ```text
//! change: who may know of it? -> Tx { lock holders, license -> access -> revision -> state -> sources -> apply } commit
//! ```

use chrono::{DateTime, Duration, Utc};
use serde_json::{Map, Value};

use super::actions::{Action, NewKey, apply, record};
use super::metadata::check_metadata;
use super::{ACCOUNTS_MERGED, ENTITLEMENT_LOST, state::Command, store};
use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::db::Reader;
use crate::entity::license::Model as License;
use crate::events::EventData;
use crate::ids::{LicenseId, PolicyId, ProductId, TenantId, UserId};
use crate::outbox::Notify;
use crate::policy::{PolicyPatch, PolicyTerms, RenewalBasis, TransferRule};
use crate::precondition::IfMatch;
use crate::products::{self, Product};
use crate::users::{self, Recipient};
use crate::{Access, Caller, Code, Core, Reason, Result, bans, entitlements, merge_patch, plain_text, tx::Tx};

/// A command about a license.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub enum Change {
    /// Changes its name and its terms, and merges a patch into its metadata (RFC 7396).
    Edit { name: NameChange, metadata: Map<String, Value>, terms: OwnTerms },
    /// Gives it to its first owner.
    Assign(Recipient),
    /// Gives it to another owner.
    Transfer(Recipient),
    /// Suspends it.
    Suspend { reason: String },
    /// Ends its suspension.
    Resume,
    /// Moves its expiry.
    Renew(Renewal),
    /// Revokes it. Its owner gets no new one while they keep one of the sources they have.
    Revoke { reason: String },
    /// Replaces its key. The former one is unknown from then on.
    RotateKey,
}

impl Change {
    /// Whether someone may use less afterwards than before.
    fn ends_use(&self) -> bool {
        match self {
            Self::Transfer(_) | Self::Suspend { .. } | Self::Renew(_) | Self::Revoke { .. } | Self::RotateKey => true,
            Self::Edit { terms, .. } => *terms != OwnTerms::default(),
            Self::Assign(_) | Self::Resume => false,
        }
    }
}

/// What to do with the name of a license.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NameChange {
    /// It stays.
    #[default]
    Keep,
    /// It is removed.
    Remove,
    /// It becomes this.
    To(String),
}

/// Terms of one license, which replace those of its policy; `None` keeps a term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTerms {
    /// How many devices it may be activated on.
    pub max_devices: Option<u32>,
    /// Its features.
    pub features: Option<Vec<String>>,
}

impl OwnTerms {
    /// What differs from the terms of the license: a limit that stays does not make activation required.
    fn patch(&self, terms: &PolicyTerms) -> PolicyPatch {
        let mut patch = PolicyPatch::default();
        if let Some(max) = self.max_devices.filter(|max| terms.max_devices != Some(*max)) {
            patch = patch.with("maxDevices", max);
        }
        if let Some(features) = self.features.clone().filter(|features| terms.features != *features) {
            patch = patch.with("features", features);
        }
        patch
    }
}

/// How far to renew a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// By the duration of its policy.
    Once,
    /// By this many seconds.
    Seconds(i64),
    /// Until then.
    Until(DateTime<Utc>),
}

/// The longest name of a license, in characters.
pub(super) const MAX_NAME: usize = 255;

/// The reason of a suspension or revocation. Refused with `VALIDATION_ERROR`; also if the service gives this reason itself,
/// because then it ends such a suspension too.
pub(super) fn checked_reason(reason: &str) -> Result<String> {
    let reason = plain_text::line("reason", reason, 200)?;
    if [ENTITLEMENT_LOST, ACCOUNTS_MERGED].contains(&reason.as_str()) {
        return Err(Reason::ReservedReason.refusal());
    }
    Ok(reason)
}

/// Changes a license. Refused with `NOT_FOUND` if the caller may not know of it, `ACCESS_DENIED`, `PRECONDITION_FAILED`,
/// `INVALID_TRANSITION` if its state does not allow this, `CONFLICT` and `VALIDATION_ERROR`.
pub async fn change(
    core: &Core,
    caller: &Caller,
    id: LicenseId,
    if_match: &IfMatch,
    change: Change,
) -> Result<License> {
    if matches!(change, Change::Transfer(_)) && caller.is_member() {
        // Whether a license exists is not for members to find out.
        visible(core, caller, id).await.map_err(|error| match error.code() {
            Code::NotFound => Code::AccessDenied.refusal(),
            _ => error,
        })?;
    }
    change_all(core, caller, id, if_match, vec![change]).await
}

/// Makes several changes of a license in this order, or none if one of them is refused, as [`change`] does.
pub async fn change_all(
    core: &Core,
    caller: &Caller,
    id: LicenseId,
    if_match: &IfMatch,
    changes: Vec<Change>,
) -> Result<License> {
    let known = visible(core, caller, id).await?;
    let changes = changes.into_iter().map(Change::checked).collect::<Result<Vec<_>>>()?;
    let to = match changes.iter().find_map(|change| Some((change, change.recipient()?))) {
        Some((change, recipient)) => {
            // Only those who may do it can create a user for a Discord account.
            let (_, terms) = with_terms(core, &known).await?;
            caller.require(change.access(&terms), &known)?;
            Some(users::resolve(core, recipient).await?)
        }
        None => None,
    };
    let (mut owner, any) = (known.user_id, IfMatch::default());
    loop {
        let mut tx = Tx::begin(core).await?;
        lock_holders(&tx, known.tenant_id, owner.into_iter().chain(to)).await?;
        let license = store::lock(&tx, id).await?;
        if license.user_id != owner {
            // It changed hands meanwhile.
            owner = license.user_id;
            continue;
        }
        let (mut changed, mut expected) = (license, if_match);
        for change in &changes {
            changed = perform(&mut tx, caller, &changed, expected, change, to).await?;
            expected = &any;
        }
        if changes.iter().any(Change::ends_use) {
            tx.commit_and_propagate(caller).await?;
        } else {
            tx.commit().await?;
        }
        return Ok(changed);
    }
}

/// A license, for a caller who may read it. Refused with `NOT_FOUND`, `REQUIRES_2FA`.
pub async fn show(core: &Core, caller: &Caller, id: LicenseId) -> Result<License> {
    visible(core, caller, id).await
}

/// Gives an unassigned license to the user who sends its key; nothing changes if it is theirs already. Refused with
/// `MALFORMED_KEY`, `NOT_FOUND`; `CONFLICT` if it belongs to another user, or they have a license for the product, or
/// had a trial and this is another one.
pub async fn redeem(core: &Core, caller: &Caller, key: &str) -> Result<License> {
    let Caller::User(member) = caller else { return Err(Code::AccessDenied.refusal()) };
    let key = LicenseKey::parse(key, &[]).map_err(|malformed| Reason::NotAKey { malformed }.refusal())?;
    let lookups = core.keys().macs(Purpose::LicenseLookup, &key.canonical());
    let known = store::find_by_key(core, &lookups).await?.ok_or_else(|| Reason::NoLicense.refusal())?;
    let mut tx = Tx::begin(core).await?;
    lock_holders(&tx, known.tenant_id, Some(member.user)).await?;
    let license = store::lock(&tx, known.id).await?;
    if !lookups.contains(&license.key_lookup) {
        return Err(Reason::NoLicense.refusal());
    }
    match license.user_id {
        Some(owner) if owner == member.user => return Ok(license),
        Some(_) => return Err(Reason::KeyTaken.refusal()),
        None => {}
    }
    license.allow(Command::Assign, tx.now())?;
    let (_, terms) = with_terms(&tx, &license).await?;
    entitlements::assign(&mut tx, &license, &terms, member.user).await?;
    let redeemed = apply(&mut tx, caller, &license, &terms, Action::Assign { to: member.user }).await?;
    tx.commit().await?;
    Ok(redeemed)
}

/// Revokes a license now, as [`Change::Revoke`] does.
pub async fn revoke(core: &Core, caller: &Caller, id: LicenseId, reason: &str) -> Result<License> {
    change(core, caller, id, &IfMatch::default(), Change::Revoke { reason: reason.to_owned() }).await
}

/// Revokes the license a user has for a product. Refused with `NOT_FOUND` if the user has none.
pub async fn revoke_member_license(
    core: &Core,
    caller: &Caller,
    user: UserId,
    product: ProductId,
    reason: &str,
) -> Result<License> {
    let license = store::find_unrevoked_of(core, &caller.scope(), user, product).await?;
    revoke(core, caller, license.ok_or_else(|| Reason::NoMemberLicense.refusal())?.id, reason).await
}

async fn visible(core: &Core, caller: &Caller, id: LicenseId) -> Result<License> {
    let license = store::find(core, id).await?.ok_or_else(|| Reason::NoLicense.refusal())?;
    caller.require(Access::Read, &license)?;
    Ok(license)
}

async fn lock_holders(tx: &Tx, tenant: TenantId, users: impl IntoIterator<Item = UserId>) -> Result<()> {
    let users: Vec<UserId> = users.into_iter().collect();
    if users.is_empty() { Ok(()) } else { users::lock_holders(tx, tenant, users).await }
}

async fn with_terms(from: &impl Reader, license: &License) -> Result<(Product, PolicyTerms)> {
    let (product, policy) = products::get_with_policy(from, license.product_id, Some(license.policy_id)).await?;
    Ok((product, policy.terms))
}

/// Makes a change to a locked license whose holders are locked too; `to` is the recipient.
async fn perform(
    tx: &mut Tx,
    caller: &Caller,
    license: &License,
    if_match: &IfMatch,
    change: &Change,
    to: Option<UserId>,
) -> Result<License> {
    let (product, terms) = with_terms(tx, license).await?;
    caller.require(change.access(&terms), license)?;
    if_match.check(license.rev)?;
    if let Some(command) = change.command() {
        license.allow(command, tx.now())?;
    }
    let key = || NewKey::generate(tx.core(), license.id, &product);
    let action = match (change, to) {
        (Change::Edit { name, metadata, terms: own }, _) => {
            let changed = terms.patched(&own.patch(&terms))?;
            let is_same = changed == terms;
            let policy =
                if is_same { license.policy_id } else { products::pin_terms(tx, product.id, changed).await?.id };
            return edit(tx, caller, license, name, metadata, policy).await;
        }
        (Change::Suspend { reason }, _) => Action::Suspend { since: tx.now(), reason },
        (Change::Resume, _) => {
            require_entitled(tx, license).await?;
            Action::Resume
        }
        (Change::Renew(renewal), _) => {
            require_entitled(tx, license).await?;
            Action::Renew { until: renewed_until(license, &terms, *renewal, tx.now())? }
        }
        (Change::Revoke { reason }, _) => Action::Revoke { reason },
        (Change::RotateKey, _) => Action::RotateKey { key: key() },
        (Change::Assign(_) | Change::Transfer(_), None) => return Err(Reason::NoUser.refusal()),
        (Change::Assign(_), Some(to)) => Action::Assign { to },
        (Change::Transfer(_), Some(to)) => {
            require_transferable(caller, license, &terms, tx.now())?;
            Action::Transfer { to, key: key() }
        }
    };
    if let (Action::Revoke { .. } | Action::Transfer { .. }, Some(owner)) = (&action, license.user_id) {
        entitlements::suppress(tx, &[owner], license.product_id).await?;
    }
    if let Some(to) = to {
        entitlements::assign(tx, license, &terms, to).await?;
    }
    let sends_key = matches!(action, Action::Assign { .. } | Action::Transfer { .. } | Action::RotateKey { .. });
    let changed = apply(tx, caller, license, &terms, action).await?;
    if sends_key {
        send_key(tx, &changed).await?;
    }
    Ok(changed)
}

/// Sends the key of a license to its owner, if they have a Discord account.
pub(super) async fn send_key(tx: &mut Tx, license: &License) -> Result<()> {
    match license.user_id {
        Some(owner) if users::has_discord(tx, owner).await? => entitlements::send_key(tx, license, Notify::Now).await,
        _ => Ok(()),
    }
}

impl Change {
    /// What the caller must be allowed to do.
    fn access(&self, terms: &PolicyTerms) -> Access {
        match self {
            Self::Suspend { .. } | Self::Resume | Self::Revoke { .. } => Access::Moderate,
            Self::Transfer(_) if terms.transfer == TransferRule::Owner => Access::Own,
            Self::Edit { .. } | Self::Assign(_) | Self::Transfer(_) | Self::Renew(_) | Self::RotateKey => {
                Access::Manage
            }
        }
    }

    /// The command that the state must allow; `None`: every state does.
    const fn command(&self) -> Option<Command> {
        match self {
            Self::Edit { .. } => None,
            Self::Assign(_) => Some(Command::Assign),
            Self::Transfer(_) => Some(Command::Transfer),
            Self::Suspend { .. } => Some(Command::Suspend),
            Self::Resume => Some(Command::Resume),
            Self::Renew(_) => Some(Command::Renew),
            Self::Revoke { .. } => Some(Command::Revoke),
            Self::RotateKey => Some(Command::RotateKey),
        }
    }

    const fn recipient(&self) -> Option<Recipient> {
        match self {
            Self::Assign(to) | Self::Transfer(to) => Some(*to),
            _ => None,
        }
    }

    /// With its texts checked and trimmed. Refused with `VALIDATION_ERROR`.
    fn checked(self) -> Result<Self> {
        Ok(match self {
            Self::Suspend { reason } => Self::Suspend { reason: checked_reason(&reason)? },
            Self::Revoke { reason } => Self::Revoke { reason: checked_reason(&reason)? },
            Self::Edit { name: NameChange::To(name), metadata, terms } => {
                Self::Edit { name: NameChange::To(plain_text::line("name", &name, MAX_NAME)?), metadata, terms }
            }
            other => other,
        })
    }
}

/// Refused if the license has sources and the last one has ended, or its owner is banned.
async fn require_entitled(tx: &Tx, license: &License) -> Result<()> {
    if license.sources_ended_at(tx.now()).is_some() {
        return Err(Reason::NoLiveSource.refusal());
    }
    match license.user_id {
        Some(owner) => bans::require_not_banned(tx, license.tenant_id, license.product_id, owner).await,
        None => Ok(()),
    }
}

fn require_transferable(caller: &Caller, license: &License, terms: &PolicyTerms, now: DateTime<Utc>) -> Result<()> {
    if terms.transfer == TransferRule::Off {
        return Err(Reason::NotTransferable.refusal());
    }
    let cooldown = Duration::seconds(terms.transfer_cooldown_seconds);
    let available_at = license.transferred_at.and_then(|last| last.checked_add_signed(cooldown));
    match available_at.filter(|at| *at > now && caller.require(Access::Manage, license).is_err()) {
        Some(available_at) => {
            Err(Reason::TransferTooSoon { available_at }.retry_after((available_at - now).to_std().unwrap_or_default()))
        }
        None => Ok(()),
    }
}

/// The new expiry. Refused with `VALIDATION_ERROR` if it is not later than now, or too late.
fn renewed_until(
    license: &License,
    terms: &PolicyTerms,
    renewal: Renewal,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>> {
    let expires_at = || license.expires_at.ok_or_else(|| Reason::DoesNotExpire.refusal());
    let (expires_at, seconds) = match renewal {
        Renewal::Until(until) => return later_date("until", until, now),
        Renewal::Seconds(seconds) => (expires_at()?, seconds),
        Renewal::Once => (expires_at()?, terms.duration_seconds.ok_or_else(|| Reason::NoDuration.refusal())?),
    };
    let from = match terms.renewal_basis {
        RenewalBasis::FromExpiry => expires_at,
        RenewalBasis::FromNow => now,
        RenewalBasis::FromNowIfExpired => expires_at.max(now),
    };
    let until = Duration::try_seconds(seconds).and_then(|duration| from.checked_add_signed(duration));
    later_date("seconds", until.unwrap_or(DateTime::<Utc>::MAX_UTC), now)
}

/// A date in the future, with a year of four digits.
pub(super) fn later_date(field: &'static str, date: DateTime<Utc>, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    const YEAR_10000: i64 = 253_402_300_800;
    if date <= now {
        return Err(Reason::NotInFuture { field }.refusal());
    }
    if date.timestamp() >= YEAR_10000 {
        return Err(Reason::DateOutOfRange { field }.refusal());
    }
    Ok(date)
}

/// Changes a license without a command. `policy` has its terms.
async fn edit(
    tx: &mut Tx,
    caller: &Caller,
    license: &License,
    name: &NameChange,
    patch: &Map<String, Value>,
    policy: PolicyId,
) -> Result<License> {
    let mut changed = License { policy_id: policy, ..license.clone() };
    match name {
        NameChange::Keep => {}
        NameChange::Remove => changed.name = None,
        NameChange::To(name) => changed.name = Some(name.clone()),
    }
    merge_patch::apply(&mut changed.metadata, Value::Object(patch.clone()));
    check_metadata(&changed.metadata)?;
    let is_changed = [
        ("name", changed.name != license.name),
        ("metadata", changed.metadata != license.metadata),
        ("policyId", changed.policy_id != license.policy_id),
    ];
    let fields: Vec<&'static str> = is_changed.into_iter().filter(|(_, is)| *is).map(|(field, _)| field).collect();
    if fields.is_empty() {
        return Ok(changed);
    }
    changed.rev += 1;
    store::save(tx, &changed).await?;
    record(tx, caller, &changed, EventData::LicenseChanged { fields });
    Ok(changed)
}
