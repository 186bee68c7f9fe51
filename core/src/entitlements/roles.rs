//! What a member's roles say: the one place where roles become observations.

use super::{Level, Observation, ObservedSource, SourceKind, Stamp};
use crate::{
    Core, Result, Scope, Snowflake,
    events::Actor,
    guilds,
    mappings::{self, Mapping},
    outbox::Notify,
    workers,
};

/// What a member's roles say about every mapping of a guild. `None` for `roles`: they left it.
pub(super) fn seen(
    mappings: &[Mapping],
    roles: Option<&[Snowflake]>,
    notify: impl Fn(&Mapping) -> Notify,
) -> Vec<ObservedSource> {
    // A deleted role says nothing about anybody, until an admin takes its mapping away.
    let speaks = |mapping: &&Mapping| mapping.role_deleted_at.is_none() || mapping.removed_at.is_some();
    mappings
        .iter()
        .filter(speaks)
        .map(|mapping| ObservedSource {
            product: mapping.product_id,
            kind: SourceKind::Role(mapping.id, mapping.guild_id, mapping.role_id),
            level: if roles.is_some_and(|roles| roles.contains(&mapping.role_id)) {
                Level::Present
            } else {
                Level::Absent
            },
            notify: notify(mapping),
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
    let notify = |mapping: &Mapping| if mapping.applied_at.is_none() { Notify::Resend } else { Notify::Now };
    let seen = seen(&mappings::list(core, &scope, guild).await?, roles, notify);
    Ok((!seen.is_empty()).then_some(Observation { scope, member, actor: Actor::System, stamp, fence, seen }))
}
