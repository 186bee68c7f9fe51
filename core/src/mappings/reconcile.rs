//! The reconciliation of a guild: its members' roles against the sources of its mappings.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::Mapping;
use super::roles::{observed_sources, origin};
use crate::entitlements::reconcile::{Reconciliation, Summary};
use crate::{Core, DiscordUserId, GuildId, Result, RoleId, Scope, guilds::Guild, outbox::Delivery, workers::Lease};

/// The reconciliation of one guild, fed page by page.
pub struct GuildReconciliation {
    guild: GuildId,
    mappings: Vec<Mapping>,
    reconciliation: Reconciliation,
}

impl GuildReconciliation {
    /// Begins a reconciliation; `None` if the guild has no mappings. `message_interval` is the time between
    /// the key messages it causes.
    pub async fn begin(
        core: &Core,
        guild: Guild,
        fence: Option<Lease>,
        message_interval: Duration,
    ) -> Result<Option<Self>> {
        let mappings = super::list(core, &Scope::of(guild.tenant_id), guild.id).await?;
        let removed = super::list_removed(core, guild.id).await?;
        if mappings.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        let verifiable: Vec<Uuid> =
            mappings.iter().filter(|mapping| mapping.role_deleted_at.is_none()).map(|mapping| mapping.id.0).collect();
        let origin = origin(guild.tenant_id, guild.id);
        let reconciliation = Reconciliation::begin(core, origin, &verifiable, fence, message_interval).await?;
        let references: Vec<Uuid> = removed.iter().map(|mapping| mapping.id.0).collect();
        let absent = |references: &[Uuid]| {
            observed_sources(removed.iter().filter(|mapping| references.contains(&mapping.id.0)), None)
        };
        reconciliation.end_sources(core, &references, absent).await?;
        Ok(Some(Self { guild: guild.id, mappings, reconciliation }))
    }

    /// Takes the guild's current roles: a mapped role that is missing was deleted unnoticed. Call this before
    /// the first page and after the last, since a role may be deleted in between.
    pub async fn roles(&mut self, core: &Core, existing: &[RoleId]) -> Result<()> {
        for mapping in self.mappings.iter().filter(|mapping| !existing.contains(&mapping.role_id)) {
            super::set_role_deleted(core, self.guild, mapping.role_id).await?;
        }
        self.mappings.retain(|mapping| existing.contains(&mapping.role_id));
        let remaining: HashSet<Uuid> = self.mappings.iter().map(|mapping| mapping.id.0).collect();
        self.reconciliation.retain(&remaining);
        Ok(())
    }

    /// Skips a member of the list about whom a newer update arrived.
    pub fn skip(&mut self, member: DiscordUserId) {
        self.reconciliation.skip(&member.to_string());
    }

    /// Compares one member of the list.
    pub async fn member(&mut self, core: &Core, member: DiscordUserId, roles: &[RoleId]) -> Result<()> {
        let sources = observed_sources(&self.mappings, Some(roles));
        self.reconciliation.member(core, &member.to_string(), sources).await
    }

    /// Completes the reconciliation. `is_newer` tells whether an update for a member arrived since it began.
    pub async fn finish(self, core: &Core, is_newer: impl Fn(DiscordUserId) -> bool) -> Result<Summary> {
        super::set_applied(core, &self.mappings).await?;
        // Subjects come from `member` or from identities, which hold Discord ids.
        let member = |subject: &str| DiscordUserId(subject.parse().unwrap_or_default());
        let recheck = |subject: &str| Delivery::RecheckMember { guild: self.guild, user: member(subject) };
        self.reconciliation.finish(core, |subject| is_newer(member(subject)), recheck).await
    }
}
