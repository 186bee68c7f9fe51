//! What the roles of a Discord member say about mappings.

use super::Mapping;
use crate::entitlements::{Evidence, Level, Observation, ObservedSource, SourceKind, Stamp, breaker::Origin};
use crate::events::OriginLabel;
use crate::users::{self, Provider};
use crate::workers::{self, Lease};
use crate::{Caller, Core, DiscordUserId, GuildId, Result, RoleId, Scope, ids::TenantId};

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

/// The roles of a member at one time.
#[derive(Clone, Copy, Debug)]
pub struct MemberRoles<'a> {
    /// The member.
    pub member: DiscordUserId,
    /// Their roles; `None` if they left.
    pub roles: Option<&'a [RoleId]>,
    /// When.
    pub stamp: Stamp,
}

/// Observations from the roles of members of a guild, in the same order. There are none if the guild has no mappings, and
/// none of members who are unknown and have no mapped role.
pub async fn observations(
    core: &Core,
    guild: GuildId,
    members: &[MemberRoles<'_>],
    fence: Option<&Lease>,
) -> Result<Vec<Observation>> {
    let mappings = super::list_of_guild(core, guild).await?;
    let Some(scope) = mappings.first().map(|mapping| Scope::of(mapping.tenant_id)) else { return Ok(Vec::new()) };
    let sources: Vec<_> = members.iter().map(|member| observed_sources(&mappings, member.roles)).collect();
    if sources.iter().all(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let subjects: Vec<String> = members.iter().map(|member| member.member.to_string()).collect();
    let mut users = users::find_all(core, Provider::Discord, &subjects).await?;
    let entitled = |sources: &[ObservedSource]| sources.iter().any(|source| source.level == Level::Present);
    let new = subjects.iter().zip(&sources).filter(|(subject, own)| !users.contains_key(*subject) && entitled(own));
    let new = new.map(|(subject, _)| subject.clone()).collect();
    users.extend(users::insert_all(core, Provider::Discord, new).await?);
    let observed = members.iter().zip(subjects).zip(sources).filter_map(|((member, subject), sources)| {
        let (caller, user, fence) = (Caller::System(scope.clone()), *users.get(&subject)?, fence.cloned());
        Some(Observation { caller, user, evidence: Evidence::Reported, stamp: member.stamp, fence, sources })
    });
    Ok(observed.filter(|observation| !observation.sources.is_empty()).collect())
}

/// The members of a guild, as something to reconcile.
pub fn origin(tenant: TenantId, guild: GuildId) -> Origin {
    let label = OriginLabel::Guild { guild_id: guild.to_string() };
    Origin { tenant, provider: Provider::Discord, id: guild.to_string(), label, worker: workers::RECONCILE_ROLES }
}
