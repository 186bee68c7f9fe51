//! What a member's roles say: the one place where roles become observations.

use super::{Basis, Level, Observation, Seen, Stamp};
use crate::{
    Core, Result, Scope, Snowflake,
    events::Actor,
    guilds,
    mappings::{self, Mapping},
    outbox::Pace,
    workers,
};

/// What a member's roles say about every mapping of a guild. `None` for `roles`: they left it.
pub(super) fn seen(mappings: &[Mapping], roles: Option<&[Snowflake]>, pace: impl Fn(&Mapping) -> Pace) -> Vec<Seen> {
    // A deleted role says nothing about anybody, until an admin takes its mapping away.
    let speaks = |mapping: &&Mapping| mapping.role_deleted_at.is_none() || mapping.removed_at.is_some();
    mappings
        .iter()
        .filter(speaks)
        .map(|mapping| Seen {
            product: mapping.product_id,
            basis: Basis::Role(mapping.id, mapping.guild_id, mapping.role_id),
            level: if roles.is_some_and(|roles| roles.contains(&mapping.role_id)) { Level::Held } else { Level::Gone },
            pace: pace(mapping),
        })
        .collect()
}

/// One member's roles as Discord told them just now: `None` when they left. Nothing to observe in a
/// guild without mappings, or one the bot does not know.
///
/// # Errors
/// When the database does not answer.
pub async fn observation(
    core: &Core,
    guild: Snowflake,
    member: Snowflake,
    roles: Option<&[Snowflake]>,
    stamp: Stamp,
    fence: Option<workers::Lease>,
) -> Result<Option<Observation>> {
    let Some(known) = guilds::find(core, guild).await? else { return Ok(None) };
    let scope = Scope::of(known.tenant_id);
    // While a new mapping's first pass runs, it may issue quietly what this member has just gained.
    let pace = |mapping: &Mapping| if mapping.applied_at.is_none() { Pace::Again } else { Pace::Now };
    let seen = seen(&mappings::list(core, &scope, guild).await?, roles, pace);
    Ok((!seen.is_empty()).then_some(Observation { scope, member, actor: Actor::System, stamp, fence, seen }))
}
