//! Pages of long lists, newest first.
//!
//! A cursor is the id of the last entry that the client has seen, with a MAC that binds it to its list: the list's name,
//! its filters and the scope of the caller. A cursor that was changed, or that belongs to another list, is refused.

use std::fmt::Debug;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sea_orm::{ColumnTrait, EntityTrait, ModelTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use uuid::Uuid;

use crate::crypto::{is_equal, seal::Purpose};
use crate::{Code, Core, Reason, Result, keyring::Keyring};

/// The part of a list to read.
#[derive(Clone, Debug)]
pub struct PageRequest {
    cursor: Option<String>,
    limit: u64,
}

impl PageRequest {
    /// The largest number of entries on a page.
    pub const MAX: u64 = 100;
    /// The number of entries on a page unless the client chooses it.
    pub const DEFAULT: u64 = 50;

    /// The entries after `cursor`, or else the newest. Refused with `VALIDATION_ERROR` if `limit` is out of range.
    pub fn new(cursor: Option<String>, limit: Option<u64>) -> Result<Self> {
        let limit = limit.unwrap_or(Self::DEFAULT);
        if !(1..=Self::MAX).contains(&limit) {
            return Err(Reason::PageLimit { max: Self::MAX }.refusal());
        }
        Ok(Self { cursor, limit })
    }

    /// The number of entries on a page.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries, newest first.
    pub items: Vec<T>,
    /// The cursor of the next page. `None` on the last page.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same page of other values.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}

/// Reads a page of a list, newest first; `id` is the column with the `UUIDv7` of an entry. `list` is what the cursor is
/// bound to: the name of the list, its filters and the scope of the caller. Refused with `INVALID_CURSOR`.
pub(crate) async fn newest_first<E: EntityTrait>(
    core: &Core,
    mut rows: Select<E>,
    id: E::Column,
    list: &impl Debug,
    request: &PageRequest,
) -> Result<Page<E::Model>>
where
    E::Model: Send + Sync,
{
    let list = format!("{list:?}");
    if let Some(cursor) = &request.cursor {
        let last = decode(core.keys(), &list, cursor).ok_or_else(|| Code::InvalidCursor.refusal())?;
        rows = rows.filter(id.lt(last));
    }
    // One more than the page has shows whether another page follows.
    let mut items = rows.order_by_desc(id).limit(request.limit + 1).all(core.db.read()).await?;
    let size = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let has_next = items.len() > size;
    items.truncate(size);
    let last = items.last().filter(|_| has_next);
    Ok(Page { next: last.map(|last| encode(core.keys(), &list, last.get(id).unwrap())), items })
}

fn encode(keys: &Keyring, list: &str, last: Uuid) -> String {
    text(last, &keys.mac(Purpose::Cursor, &bound(list, last)))
}

/// The id in a cursor of this list.
fn decode(keys: &Keyring, list: &str, cursor: &str) -> Option<Uuid> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let last = Uuid::from_bytes(*bytes.first_chunk()?);
    let macs = keys.macs(Purpose::Cursor, &bound(list, last));
    macs.iter().any(|mac| is_equal(&text(last, mac), cursor)).then_some(last)
}

fn bound(list: &str, last: Uuid) -> String {
    format!("{list} {last}")
}

fn text(last: Uuid, mac: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([last.as_bytes(), &mac[..16]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ids;

    #[test]
    fn a_cursor_is_valid_for_its_own_list_and_only_unchanged() {
        let (keys, id) = (Keyring::of_test(&Ids::seeded(3)), Ids::seeded(4).v4());
        let list = |filter: Option<&str>| format!("{:?}", ("licenses", 1, filter));
        let cursor = encode(&keys, &list(None), id);
        assert_eq!(decode(&keys, &list(None), &cursor), Some(id));
        assert_eq!(decode(&keys, &list(Some("active")), &cursor), None, "another filter");
        assert_eq!(decode(&keys, "(\"devices\", 1, None)", &cursor), None, "another list");
        assert_eq!(decode(&Keyring::of_test(&Ids::seeded(5)), &list(None), &cursor), None, "another installation");
        for index in 0..cursor.len() {
            for other in ["A", "b", "_", "=", ""] {
                let changed = format!("{}{other}{}", &cursor[..index], &cursor[index + 1..]);
                assert!(changed == cursor || decode(&keys, &list(None), &changed).is_none(), "{changed}");
            }
        }
        for wrong in ["", "x", &id.to_string(), &URL_SAFE_NO_PAD.encode(id.as_bytes()), &format!("{cursor}AAAA")] {
            assert_eq!(decode(&keys, &list(None), wrong), None, "{wrong}");
        }
    }
}
