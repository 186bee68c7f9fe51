//! The reconciliation of a guild: its members' roles against the sources of its mappings.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::Mapping;
use super::roles::{observed_sources, origin};
use crate::entitlements::reconcile::{Difference, Reconciliation, Summary};
use crate::{Core, DiscordUserId, GuildId, Result, RoleId, Scope, guilds::Guild, outbox::Delivery, workers::Lease};

/// The reconciliation of one guild, fed page by page.
pub struct GuildReconciliation {
    guild: GuildId,
    mappings: Vec<Mapping>,
    reconciliation: Reconciliation,
}

impl GuildReconciliation {
    /// Begins a reconciliation; `None` if the guild has, and had, no mappings. `message_interval` is the time between
    /// the key messages it causes.
    pub async fn begin(
        core: &Core,
        guild: &Guild,
        fence: Option<Lease>,
        message_interval: Duration,
    ) -> Result<Option<Self>> {
        let mappings = super::list(core, &Scope::of(guild.tenant_id), guild.id).await?;
        let removed = super::list_removed(core, guild.id).await?;
        if mappings.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        let origin = origin(guild.tenant_id, guild.id);
        let sources = observed_sources(&mappings, None);
        let reconciliation = Reconciliation::begin(core, origin, sources, fence, message_interval).await?;
        reconciliation.end_sources(core, &observed_sources(&removed, None)).await?;
        Ok(Some(Self { guild: guild.id, mappings, reconciliation }))
    }

    /// The mappings that are compared.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Takes the guild's current roles: a mapped role that is missing was deleted unnoticed. Call this before
    /// the first page and after the last, since a role may be deleted in between.
    pub async fn roles(&mut self, core: &Core, existing: &[RoleId]) -> Result<()> {
        let active = self.mappings.iter().filter(|mapping| mapping.role_deleted_at.is_none());
        for mapping in active.filter(|mapping| !existing.contains(&mapping.role_id)) {
            super::set_role_deleted(core, self.guild, mapping.role_id).await?;
        }
        self.mappings.retain(|mapping| existing.contains(&mapping.role_id));
        let remaining: HashSet<Uuid> = self.mappings.iter().map(|mapping| mapping.id.0).collect();
        self.reconciliation.retain(&remaining);
        Ok(())
    }

    /// Skips a member of the list about whom a newer update arrived.
    pub fn skip(&mut self, member: DiscordUserId) {
        self.reconciliation.skip(member.into());
    }

    /// Compares one member of the list.
    pub async fn member(&mut self, core: &Core, member: DiscordUserId, roles: &[RoleId]) -> Result<Difference> {
        let verifiable = self.mappings.iter().filter(|mapping| mapping.role_deleted_at.is_none());
        let present = verifiable.filter(|mapping| roles.contains(&mapping.role_id));
        let present: Vec<Uuid> = present.map(|mapping| mapping.id.0).collect();
        self.reconciliation.member(core, member.into(), &present).await
    }

    /// Completes the reconciliation. `is_newer` tells whether an update for a member arrived since it began. Returns the
    /// members who are rechecked, too.
    pub async fn finish(
        mut self,
        core: &Core,
        is_newer: impl Fn(DiscordUserId) -> bool,
    ) -> Result<(Summary, Vec<DiscordUserId>)> {
        // While a mapping is new, its members are told otherwise.
        self.reconciliation.observe_gains(core).await?;
        super::set_applied(core, &self.mappings).await?;
        let recheck = |subject: u64| Delivery::RecheckMember { guild: self.guild, user: subject.into() };
        let finished = self.reconciliation.finish(core, |subject| is_newer(subject.into()), recheck).await?;
        Ok((finished.0, finished.1.into_iter().map(Into::into).collect()))
    }
}
