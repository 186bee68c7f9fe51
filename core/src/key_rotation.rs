//! Rotation of the data keys and of the master key.
//!
//! The keys that sign verdicts are named in a list that is signed by the root key ([`crate::key_list`]). While the root
//! key is in the keyring, [`renew`] rotates the signing key and signs the list. If it was exported
//! ([`export_root`], [`remove_root`]), only [`publish`] can, because a key that no list names is of no use to apps.

use chrono::{DateTime, Duration, Utc};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};
use zeroize::Zeroizing;

use crate::crypto::jws::{Jwk, Signer};
use crate::crypto::seal::{MasterKey, Purpose, encrypt};
use crate::entity::key::{Column, Entity, Model};
use crate::keyring::Generations;
use crate::{Core, Error, Reason, Result, db, key_list, tx::Tx};

/// The time until a new key takes effect. All instances have read it by then, and so have servers that cache the JWK
/// set.
pub const ACTIVATION_DELAY: Duration = Duration::minutes(5);

/// How long the previous key for access tokens stays valid after the new one takes effect: the longest lifetime of an
/// access token, and the tolerated clock difference.
const OVERLAP: Duration = Duration::minutes(61);

/// The age at which the key that signs verdicts is rotated.
const ROTATE_AFTER: Duration = Duration::days(60);

/// How long before its deadline the operator is reminded of a list that only they can sign.
const REMIND_BEFORE: Duration = Duration::days(14);

/// One generation of a purpose's key.
#[derive(Clone, Debug)]
pub struct Generation {
    /// What the key is for.
    pub purpose: Purpose,
    /// 1 for the first key.
    pub number: i32,
    /// When it takes effect.
    pub not_before: DateTime<Utc>,
    /// When it stops being valid. `None`: what it sealed or derived stays valid.
    pub not_after: Option<DateTime<Utc>>,
}

impl From<Model> for Generation {
    fn from(Model { purpose, generation, not_before, not_after, .. }: Model) -> Self {
        Self { purpose, number: generation, not_before, not_after }
    }
}

/// All generations, by purpose, oldest first.
pub async fn list(core: &Core) -> Result<Vec<Generation>> {
    let rows = Entity::find().order_by_asc(Column::Purpose).order_by_asc(Column::Generation);
    Ok(rows.all(core.db.read()).await?.into_iter().map(Generation::from).collect())
}

/// Adds a generation to one purpose, or to all, which takes effect after [`ACTIVATION_DELAY`]. Older generations still
/// open and verify; a previous signing key ends when everything that it signed has expired.
///
/// Apps contain the root key, so it is rotated only by name. The new one is in effect at once, and the previous one ends.
/// Without a root key, the signing key of verdicts cannot be rotated here (`RootKeyOffline`), and `None` leaves it out.
pub async fn rotate(core: &Core, only: Option<Purpose>) -> Result<Vec<Generation>> {
    let tx = Tx::begin(core).await?;
    let rows = lock_all(&tx).await?;
    let has_root = rows.iter().any(|row| row.purpose == Purpose::RootSigning);
    let is_included = |purpose: Purpose| match (only, purpose) {
        (Some(only), purpose) => only == purpose,
        (None, Purpose::RootSigning) => false,
        (None, Purpose::VerdictSigning) => has_root,
        (None, _) => true,
    };
    if only == Some(Purpose::VerdictSigning) && !has_root {
        return Err(Reason::RootKeyOffline.refusal());
    }
    let mut added = Vec::new();
    for purpose in Purpose::ALL.iter().copied().filter(|purpose| is_included(*purpose)) {
        added.push(add_generation(&tx, &rows, purpose).await?);
    }
    sign_list_if_outdated(&tx).await?;
    tx.commit().await?;
    core.reload_keys().await?;
    Ok(added.into_iter().map(Generation::from).collect())
}

/// Rotates the key that signs verdicts if it is `ROTATE_AFTER` old, and signs the list of these keys if it is outdated.
/// Does nothing without a root key. The worker `signing_keys` calls it daily.
pub async fn renew(core: &Core) -> Result<()> {
    let keys = core.keys().read(core.db.read()).await?;
    if !is_rotation_due(core, &keys) && !key_list::is_outdated(core, key_list::find(core).await?.as_ref(), &keys)? {
        return Ok(());
    }
    let tx = Tx::begin(core).await?;
    let rows = lock_all(&tx).await?;
    if rows.iter().any(|row| row.purpose == Purpose::RootSigning) {
        if is_rotation_due(core, &core.keys().read(tx.db()).await?) {
            add_generation(&tx, &rows, Purpose::VerdictSigning).await?;
        }
        sign_list_if_outdated(&tx).await?;
    }
    tx.commit().await?;
    core.reload_keys().await
}

/// Signs the first list, after the keys were created.
pub async fn sign_first_list(core: &Core) -> Result<()> {
    if key_list::find(core).await?.is_some() {
        return Ok(());
    }
    let tx = Tx::begin(core).await?;
    lock_all(&tx).await?;
    sign_list_if_outdated(&tx).await?;
    tx.commit().await
}

/// Whether [`publish`] also rotates the signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// If it is `ROTATE_AFTER` old.
    WhenDue,
    /// In any case.
    Now,
}

/// Signs the list of signing keys with a root key that is not in the database, in PKCS#8 PEM. Refused with `CONFLICT` if
/// another root key signed the previous list, because apps would reject this one.
pub async fn publish(core: &Core, root_pem: &str, rotation: Rotation) -> Result<Status> {
    let root = Signer::from_pem(root_pem).ok_or_else(|| Reason::InvalidRootKey.refusal())?;
    let tx = Tx::begin(core).await?;
    let rows = lock_all(&tx).await?;
    if key_list::get(&tx).await?.root_key != root.public_key() {
        return Err(Reason::OtherRootKey.refusal());
    }
    if rotation == Rotation::Now || is_rotation_due(core, &core.keys().read(tx.db()).await?) {
        add_generation(&tx, &rows, Purpose::VerdictSigning).await?;
    }
    key_list::publish(&tx, &root, &core.keys().read(tx.db()).await?).await?;
    tx.commit().await?;
    core.reload_keys().await?;
    status(core).await
}

/// The private root key in PKCS#8 PEM. Refused with `CONFLICT` if it is not in the database.
pub fn export_root(core: &Core) -> Result<Zeroizing<String>> {
    let root = core.keys().all(Purpose::RootSigning);
    root.first().ok_or_else(|| Reason::RootKeyOffline.refusal())?.signer().to_pem()
}

/// Deletes the root key from the database, after it was exported.
pub async fn remove_root(core: &Core) -> Result<()> {
    let tx = Tx::begin(core).await?;
    lock_all(&tx).await?;
    // Without a list, the next start would create another root key.
    sign_list_if_outdated(&tx).await?;
    Entity::delete_many().filter(Column::Purpose.eq(Purpose::RootSigning)).exec(tx.db()).await?;
    tx.commit().await?;
    core.reload_keys().await
}

/// The root key and what it signed.
#[derive(Clone, Debug)]
pub struct Status {
    /// The public root key, for apps.
    pub root: Jwk,
    /// Whether the private root key is in the database, so that this service signs lists itself.
    pub is_online: bool,
    /// When the next signing key is due: added by this service, or at the latest by the operator.
    pub next_rotation: DateTime<Utc>,
    /// When the list of signing keys ends.
    pub list_expires_at: DateTime<Utc>,
    /// Whether the operator should publish a list now.
    pub is_publication_due: bool,
}

/// The state of the root key and of the list.
pub async fn status(core: &Core) -> Result<Status> {
    let (now, list) = (core.clock.now(), key_list::get(core).await?);
    let keys = core.keys().read(core.db.read()).await?;
    let is_online = !keys.all(Purpose::RootSigning, now).is_empty();
    let newest = keys.all(Purpose::VerdictSigning, now).first().map_or(now, |key| key.not_before);
    let next_rotation = newest + if is_online { ROTATE_AFTER } else { key_list::SIGNING_PERIOD };
    let deadline = next_rotation.min(list.expires_at) - REMIND_BEFORE;
    let is_publication_due = !is_online && (deadline <= now || key_list::is_wrong(core, &list, &keys)?);
    let root = list.root_key.as_slice().try_into();
    let root = root.map_err(|_| Error::Internal("the stored root key is not 32 bytes long".to_owned()))?;
    Ok(Status { root: Jwk::new(root), is_online, next_rotation, list_expires_at: list.expires_at, is_publication_due })
}

fn is_rotation_due(core: &Core, keys: &Generations) -> bool {
    let now = core.clock.now();
    keys.all(Purpose::VerdictSigning, now).first().is_none_or(|newest| newest.not_before + ROTATE_AFTER <= now)
}

async fn sign_list_if_outdated(tx: &Tx) -> Result<()> {
    let keys = tx.core().keys().read(tx.db()).await?;
    if let Some(root) = keys.all(Purpose::RootSigning, tx.now()).first()
        && key_list::is_outdated(tx.core(), key_list::find(tx).await?.as_ref(), &keys)?
    {
        key_list::publish(tx, root.signer(), &keys).await?;
    }
    Ok(())
}

/// Adds a generation to a purpose, and ends the previous one if it signs. `rows` are all rows, newest generations first.
async fn add_generation(tx: &Tx, rows: &[Model], purpose: Purpose) -> Result<Model> {
    let previous = rows.iter().find(|row| row.purpose == purpose);
    let not_before = if purpose == Purpose::RootSigning { tx.now() } else { tx.now() + ACTIVATION_DELAY };
    if let Some(previous) = previous {
        // Fails if the master key was replaced meanwhile.
        tx.core().keys().decrypt(previous)?;
        let end = match purpose {
            Purpose::AccessToken => Some(not_before + OVERLAP),
            Purpose::VerdictSigning => Some(key_list::end_of_key(previous.not_before)),
            Purpose::RootSigning => Some(not_before),
            _ => None,
        };
        db::update([(Column::NotAfter, end.into())], [Column::Id.eq(previous.id)]).exec(tx.db()).await?;
    }
    let generation = previous.map_or(1, |previous| previous.generation + 1);
    let added = tx.core().keys().new_key(&tx.core().ids, purpose, generation, not_before);
    Entity::insert(added.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(added)
}

/// Encrypts all keys under another master key. Every start needs it. Running instances need it only for generations that
/// are added later ([`Core::set_master_key`]).
pub async fn rewrap(core: &Core, new: &MasterKey) -> Result<()> {
    let tx = Tx::begin(core).await?;
    for row in lock_all(&tx).await? {
        let key = core.keys().decrypt(&row)?;
        let sealed = encrypt(&*new.0, &core.ids, row.purpose, row.id, key.as_slice());
        db::update([(Column::Sealed, sealed.into())], [Column::Id.eq(row.id)]).exec(tx.db()).await?;
    }
    tx.commit().await
}

/// All rows, newest generations first.
async fn lock_all(tx: &Tx) -> Result<Vec<Model>> {
    Ok(Entity::find().order_by_desc(Column::Generation).lock_exclusive().all(tx.db()).await?)
}
