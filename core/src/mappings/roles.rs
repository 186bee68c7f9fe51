//! What the roles of a Discord member say about mappings.

use super::Mapping;
use crate::entitlements::{Evidence, Level, Observation, ObservedSource, SourceKind, Stamp, breaker::Origin};
use crate::events::OriginLabel;
use crate::users::{self, Provider};
use crate::workers::{self, Lease};
use crate::{Caller, Core, DiscordUserId, GuildId, Result, RoleId, Scope, guilds, ids::TenantId};

/// One source per mapping, from a member's roles. `roles` is `None` if the member left.
pub(super) fn observed_sources<'a>(
    mappings: impl IntoIterator<Item = &'a Mapping>,
    roles: Option<&[RoleId]>,
) -> Vec<ObservedSource> {
    // A deleted role is no evidence that members lost it, until an admin removes its mapping.
    let is_verifiable = |mapping: &&Mapping| mapping.role_deleted_at.is_none() || mapping.removed_at.is_some();
    let level = |mapping: &Mapping| match roles {
        _ if mapping.removed_at.is_some() => Level::Withdrawn,
        Some(roles) if roles.contains(&mapping.role_id) => Level::Present,
        _ => Level::Absent,
    };
    let source = |mapping: &Mapping| ObservedSource {
        product: mapping.product_id,
        kind: SourceKind::DiscordRole,
        reference: mapping.id.0,
        level: level(mapping),
        initial_announce: mapping.applied_at.is_none().then_some(mapping.announce),
        label: Some(super::label(mapping)),
    };
    mappings.into_iter().filter(is_verifiable).map(source).collect()
}

/// An observation from a member's current roles; `roles` is `None` if the member left. Returns `None` if there is
/// nothing to observe: the guild is unknown or has no mappings, or the member is unknown and has no mapped role.
pub async fn observation(
    core: &Core,
    guild: GuildId,
    member: DiscordUserId,
    roles: Option<&[RoleId]>,
    stamp: Stamp,
    fence: Option<Lease>,
) -> Result<Option<Observation>> {
    let Some(guild) = guilds::find(core, guild).await? else { return Ok(None) };
    let scope = Scope::of(guild.tenant_id);
    let sources = observed_sources(&super::list(core, &scope, guild.id).await?, roles);
    if sources.is_empty() {
        return Ok(None);
    }
    let subject = member.to_string();
    let user = match users::find_by_identity(core, Provider::Discord, &subject).await? {
        Some(user) => user,
        None if sources.iter().all(|source| source.level == Level::Absent) => return Ok(None),
        None => users::ensure(core, Provider::Discord, &subject).await?,
    };
    let caller = Caller::System(scope);
    Ok(Some(Observation { caller, user, evidence: Evidence::Reported, stamp, fence, sources }))
}

/// The members of a guild, as something to reconcile.
pub fn origin(tenant: TenantId, guild: GuildId) -> Origin {
    let label = OriginLabel::Guild { guild_id: guild.to_string() };
    Origin { tenant, provider: Provider::Discord, id: guild.to_string(), label, worker: workers::RECONCILE_ROLES }
}
