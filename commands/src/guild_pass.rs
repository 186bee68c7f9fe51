//! The reconciliation of one guild, as the gateway sees it: it establishes which roles members have, and updates that
//! arrive meanwhile are newer than its list.

use dca_core::{DiscordUserId, GuildId, RoleId, mappings::Mapping};

use crate::{known_roles::Pass, updates::UpdateBuffer};

/// The reconciliation of a guild. If it is dropped before it is complete, nothing is known about the guild.
pub struct GuildPass<'a> {
    updates: &'a UpdateBuffer,
    guild: GuildId,
    pass: Pass,
}

impl<'a> GuildPass<'a> {
    pub(crate) fn begin(updates: &'a UpdateBuffer, guild: GuildId, mappings: &[Mapping]) -> Self {
        let pass = updates.known_roles(|known| known.begin(guild, mappings));
        Self { updates, guild, pass }
    }

    /// Whether the gateway reported a member since the reconciliation began: that update is newer than the list.
    pub fn is_newer(&self, member: DiscordUserId) -> bool {
        self.updates.updated_since_reconcile(self.guild, member)
    }

    /// Takes a member of the list, with their roles. `None`: what is stored differs from the list for now.
    pub fn list(&self, member: DiscordUserId, roles: Option<&[RoleId]>) {
        self.updates.list(self.guild, self.pass, member, roles);
    }

    /// The whole list was compared, and differences are stored, except those of these members.
    pub fn complete(&self, unknown: &[DiscordUserId]) {
        self.updates.known_roles(|known| known.complete(self.guild, self.pass, unknown));
    }
}

impl Drop for GuildPass<'_> {
    fn drop(&mut self) {
        self.updates.known_roles(|known| known.end(self.guild, self.pass));
    }
}
