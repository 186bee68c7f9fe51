//! Turns the roles of a member into observations.

use super::{Level, Observation, ObservedSource, SourceKind, Stamp};
use crate::{
    Core, Result, Scope, Snowflake,
    events::Actor,
    guilds,
    mappings::{self, Mapping},
    outbox::Notify,
    workers,
};

/// One source per mapping of a guild, from a member's roles. `roles` is `None` if the member left.
pub(super) fn observed_sources(
    mappings: &[Mapping],
    roles: Option<&[Snowflake]>,
    notify: impl Fn(&Mapping) -> Notify,
) -> Vec<ObservedSource> {
    // A deleted role is no evidence that members lost it, until an admin removes its mapping.
    let is_verifiable = |mapping: &&Mapping| mapping.role_deleted_at.is_none() || mapping.removed_at.is_some();
    mappings
        .iter()
        .filter(is_verifiable)
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

/// An observation from a member's current roles; `roles` is `None` if the member left. Returns `None`
/// if the guild is unknown or has no mappings.
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
    // The first reconciliation of a new mapping may have issued this license without sending its key.
    let notify = |mapping: &Mapping| if mapping.applied_at.is_none() { Notify::Resend } else { Notify::Now };
    let sources = observed_sources(&mappings::list(core, &scope, guild).await?, roles, notify);
    Ok((!sources.is_empty()).then_some(Observation {
        scope,
        member,
        actor: Actor::System,
        stamp,
        fence,
        seen: sources,
    }))
}
