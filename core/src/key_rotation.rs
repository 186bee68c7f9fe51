//! Rotation of the data keys and of the master key, for the operator.

use chrono::{DateTime, Duration, Utc};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryOrder, QuerySelect};

use crate::crypto::seal::{MasterKey, Purpose, encrypt};
use crate::entity::key::{Column, Entity, Model};
use crate::{Core, Result, db, tx::Tx};

/// The time until a new key takes effect. All instances have read it by then, and so have servers that cache the JWK
/// set.
pub const ACTIVATION_DELAY: Duration = Duration::minutes(5);

/// How long the previous signing key stays valid after the new one takes effect: the longest lifetime of an access
/// token, and the tolerated clock difference.
const OVERLAP: Duration = Duration::minutes(61);

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

/// Adds a generation to each of these purposes, which takes effect after [`ACTIVATION_DELAY`]. Older generations still
/// open and verify; the previous signing key ends when the last token that it signed has expired.
pub async fn rotate(core: &Core, purposes: &[Purpose]) -> Result<Vec<Generation>> {
    let tx = Tx::begin(core).await?;
    let not_before = tx.now() + ACTIVATION_DELAY;
    let mut added = Vec::new();
    for row in lock_all(&tx).await? {
        // Fails if the master key was replaced meanwhile.
        core.keys().decrypt(&row)?;
        let is_newest = added.iter().all(|new: &Model| new.purpose != row.purpose);
        if purposes.contains(&row.purpose) && is_newest {
            added.push(core.keys().new_key(&core.ids, row.purpose, row.generation + 1, not_before));
        }
    }
    if purposes.contains(&Purpose::AccessToken) {
        let previous = [Column::Purpose.eq(Purpose::AccessToken), Column::NotAfter.is_null()];
        db::update([(Column::NotAfter, (not_before + OVERLAP).into())], previous).exec(tx.db()).await?;
    }
    Entity::insert_many(added.iter().cloned().map(IntoActiveModel::into_active_model))
        .exec_without_returning(tx.db())
        .await?;
    tx.commit().await?;
    core.reload_keys().await?;
    Ok(added.into_iter().map(Generation::from).collect())
}

/// Encrypts all keys under another master key. Every start needs it. Running instances need it only for generations that
/// are added later ([`Core::set_master_key`]).
pub async fn rewrap(core: &Core, new: &MasterKey) -> Result<()> {
    let tx = Tx::begin(core).await?;
    for row in lock_all(&tx).await? {
        let sealed = encrypt(&*new.0, &core.ids, row.purpose, row.id, &core.keys().decrypt(&row)?);
        db::update([(Column::Sealed, sealed.into())], [Column::Id.eq(row.id)]).exec(tx.db()).await?;
    }
    tx.commit().await
}

/// All rows, newest generations first.
async fn lock_all(tx: &Tx) -> Result<Vec<Model>> {
    Ok(Entity::find().order_by_desc(Column::Generation).lock_exclusive().all(tx.db()).await?)
}
