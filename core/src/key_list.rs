//! The list of the keys that sign verdicts, signed by the root key.
//!
//! Apps contain the public root key and trust a signing key only if such a list names it, so that nobody who controls
//! the connection to this service can put their own key in its place. The list is a compact JWS ([`crate::crypto::jws`])
//! of type `dca-keys+jwt`:
//!
//! ```json
//! {"iss":"https://auth.example.com","seq":1798761600,"iat":1798761600,"exp":1833321600,
//!  "keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"…","x":"…","nbf":1798761900,"exp":1838160300}]}
//! ```
//!
//! - `seq` only rises. An app that keeps the list takes a new one only if its `seq` is not lower.
//! - A key signs from its `nbf`; everything that it signed has expired by its `exp`.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use sea_orm::{EntityTrait, IntoActiveModel, QueryOrder};
use serde::{Deserialize, Serialize};

use crate::crypto::jws::{self, Jwk, Signer};
use crate::crypto::seal::Purpose;
use crate::entity::key_list::{Column, Entity};
use crate::keyring::{DataKey, Generations};
use crate::{Core, Error, Result, db::Reader, tx::Tx};

pub(crate) use crate::entity::key_list::Model as KeyList;

/// The `typ` of a list.
pub const TYPE: &str = "dca-keys+jwt";

/// How long a list is valid. Apps without a connection keep the one that they have.
pub const LIST_LIFETIME: Duration = Duration::days(400);

/// A list that ends sooner is replaced, so that it lasts as long as any license file that contains it.
const RENEW_BEFORE: Duration = Duration::days(370);

/// How long a signing key signs, at the latest, before the next one replaces it.
pub const SIGNING_PERIOD: Duration = Duration::days(90);

/// How long a signing key is listed: until the longest-lived file that it may have signed has expired.
pub const KEY_LIFETIME: Duration = Duration::days(90 + 366);

/// The claims of a list.
#[derive(Debug, Serialize, Deserialize)]
struct ListClaims {
    iss: String,
    seq: i64,
    iat: i64,
    exp: i64,
    keys: Vec<Jwk>,
}

/// The newest list, as a compact JWS, and its `seq`.
pub async fn current(core: &Core) -> Result<(String, i64)> {
    get(core).await.map(|list| (list.jws, list.seq))
}

/// The public keys of this service as a JWK set (RFC 7517, RFC 8037), for servers that verify access tokens or verdicts
/// themselves: the ones in effect, those that will be, and those whose signatures are still valid.
pub fn jwks(core: &Core) -> Vec<Jwk> {
    let keys = [Purpose::AccessToken, Purpose::VerdictSigning].map(|purpose| core.keys().all(purpose));
    keys.iter().flatten().map(|key| key.signer().jwk().clone()).collect()
}

pub(crate) async fn find(reader: &impl Reader) -> Result<Option<KeyList>> {
    Ok(Entity::find().order_by_desc(Column::Seq).one(reader.connection()).await?)
}

pub(crate) async fn get(reader: &impl Reader) -> Result<KeyList> {
    find(reader).await?.ok_or_else(|| Error::Internal("there is no list of signing keys yet".to_owned()))
}

/// When a key that signs from `not_before` is no longer listed.
pub(crate) fn end_of_key(not_before: DateTime<Utc>) -> DateTime<Utc> {
    not_before + KEY_LIFETIME
}

fn entries(keys: &Generations, now: DateTime<Utc>) -> Vec<Jwk> {
    let entry = |key: &Arc<DataKey>| key.signer().jwk().clone().with_period(key.not_before, end_of_key(key.not_before));
    keys.all(Purpose::VerdictSigning, now).iter().map(entry).collect()
}

/// Whether this service must replace its list: it ends before a license file may, or does not name the current keys.
pub(crate) fn is_outdated(core: &Core, list: Option<&KeyList>, keys: &Generations) -> Result<bool> {
    match list {
        Some(list) if list.expires_at - RENEW_BEFORE > core.clock.now() => is_wrong(core, list, keys),
        _ => Ok(true),
    }
}

/// Whether a list is not about exactly these keys and this service, or is signed by another root key.
pub(crate) fn is_wrong(core: &Core, list: &KeyList, keys: &Generations) -> Result<bool> {
    let now = core.clock.now();
    let root = keys.all(Purpose::RootSigning, now);
    let is_signed_by_root = root.first().is_none_or(|root| root.signer().public_key()[..] == list.root_key);
    let claims: ListClaims = jws::claims(&list.jws)?;
    Ok(!is_signed_by_root || claims.iss != *core.issuer || claims.keys != entries(keys, now))
}

/// Signs the list of the current keys and stores it.
pub(crate) async fn publish(tx: &Tx, root: &Signer, keys: &Generations) -> Result<KeyList> {
    let (now, last) = (tx.now(), find(tx).await?);
    // The time, so that it also rises after a restore of an older database.
    let seq = now.timestamp().max(last.map_or(0, |last| last.seq + 1));
    let expires_at = now + LIST_LIFETIME;
    let iss = tx.core().issuer.to_string();
    let claims = ListClaims { iss, seq, iat: now.timestamp(), exp: expires_at.timestamp(), keys: entries(keys, now) };
    let list = KeyList { seq, root_key: root.public_key().to_vec(), jws: root.sign(TYPE, &claims)?, expires_at };
    Entity::insert(list.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(list)
}
