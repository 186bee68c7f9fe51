//! The mapped roles that each member is known to have, so that an update without a change needs no work.
//!
//! A reconciliation reads all members of a guild; from then on, every event is compared with what was known and applied
//! to it. Only a difference is stored. This is complete as long as no event is missed: after a gap, nothing is known
//! until the next reconciliation, and every update is stored.

use std::collections::HashMap;

use dca_core::interner::{Interner, SetId};
use dca_core::{DiscordUserId, GuildId, RoleId, mappings::Mapping};

/// What is known about each guild.
#[derive(Debug, Default)]
pub(crate) struct KnownRoles {
    guilds: HashMap<GuildId, GuildRoles>,
    passes: u32,
}

/// A reconciliation of a guild. Its number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass(u32);

#[derive(Debug)]
struct GuildRoles {
    /// The mapped roles, in order.
    mapped: Vec<RoleId>,
    /// The newest reconciliation that has begun.
    pass: Pass,
    /// The newest reconciliation that has compared all members.
    complete: Option<Pass>,
    sets: Interner<RoleId>,
    /// Members with a mapped role. Everybody else is known to have none.
    members: HashMap<DiscordUserId, Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Their mapped roles; `None` if what is stored may differ from them.
    roles: Option<SetId>,
    /// The last reconciliation that listed the member, or during which they were updated.
    pass: Pass,
}

impl KnownRoles {
    /// Takes an update of a member, who has these roles. Returns whether it has to be stored.
    pub fn update(&mut self, guild: GuildId, member: DiscordUserId, roles: &[RoleId]) -> bool {
        let Some(guild) = self.guilds.get_mut(&guild) else { return true };
        let mapped = guild.mapped_of(roles);
        let pass = guild.pass;
        let is_known = match guild.members.get_mut(&member) {
            None => mapped.is_empty(),
            Some(known) => {
                known.pass = pass;
                known.roles.is_some_and(|known| guild.sets.get(known) == mapped)
            }
        };
        if is_known && guild.complete.is_some() {
            return false;
        }
        guild.set(member, mapped);
        true
    }

    /// Begins to reconcile a guild with these mappings.
    pub fn begin(&mut self, guild: GuildId, mappings: &[Mapping]) -> Pass {
        self.passes += 1;
        let pass = Pass(self.passes);
        let active = mappings.iter().filter(|mapping| mapping.role_deleted_at.is_none());
        let mut mapped: Vec<_> = active.map(|mapping| mapping.role_id).collect();
        mapped.sort_unstable();
        mapped.dedup();
        // A member who gains a role while it is new gets a message, which the reconciliation alone would not send.
        let is_new = mappings.iter().any(|mapping| mapping.applied_at.is_none());
        match self.guilds.get_mut(&guild) {
            Some(known) if known.mapped == mapped => {
                known.pass = pass;
                known.complete = known.complete.filter(|_| !is_new);
            }
            _ => {
                let (sets, members) = (Interner::default(), HashMap::new());
                self.guilds.insert(guild, GuildRoles { mapped, pass, complete: None, sets, members });
            }
        }
        pass
    }

    /// Takes a member of the list, with their roles. `None`: what is stored differs from the list for now.
    pub fn list(&mut self, guild: GuildId, pass: Pass, member: DiscordUserId, roles: Option<&[RoleId]>) {
        let Some(guild) = self.current(guild, pass) else { return };
        match roles {
            Some(roles) => guild.set(member, guild.mapped_of(roles)),
            None => _ = guild.members.insert(member, Member { roles: None, pass }),
        }
    }

    /// Keeps what is known about a member of the list, because an update of them is newer.
    pub fn keep(&mut self, guild: GuildId, pass: Pass, member: DiscordUserId) {
        let Some(guild) = self.current(guild, pass) else { return };
        // The update may have come before anything was known about the guild.
        guild.members.entry(member).or_insert(Member { roles: None, pass }).pass = pass;
    }

    /// The list is complete, but for these holders.
    pub fn complete(&mut self, guild: GuildId, pass: Pass, missing: &[DiscordUserId]) {
        let Some(guild) = self.current(guild, pass) else { return };
        guild.members.retain(|_, member| member.pass == pass);
        for member in missing {
            guild.members.entry(*member).or_insert(Member { roles: None, pass });
        }
        guild.complete = Some(pass);
    }

    /// Ends a reconciliation. If it did not complete, nothing is known about the guild.
    pub fn end(&mut self, guild: GuildId, pass: Pass) {
        if self.current(guild, pass).is_some_and(|guild| guild.complete != Some(pass)) {
            self.guilds.remove(&guild);
        }
    }

    /// Forgets a guild.
    pub fn forget(&mut self, guild: GuildId) {
        self.guilds.remove(&guild);
    }

    /// Forgets everything, because events were missed.
    pub fn forget_all(&mut self) {
        self.guilds.clear();
    }

    /// The guilds whose mapped roles are others than these.
    pub fn changed(&self, mapped: &HashMap<GuildId, Vec<RoleId>>) -> Vec<GuildId> {
        let is_changed =
            |(id, known): &(&GuildId, &GuildRoles)| mapped.get(id).map_or(&[][..], Vec::as_slice) != known.mapped;
        self.guilds.iter().filter(is_changed).map(|(id, _)| *id).collect()
    }

    fn current(&mut self, guild: GuildId, pass: Pass) -> Option<&mut GuildRoles> {
        self.guilds.get_mut(&guild).filter(|guild| guild.pass == pass)
    }
}

impl GuildRoles {
    /// The mapped roles among these, in order.
    fn mapped_of(&self, roles: &[RoleId]) -> Vec<RoleId> {
        let mut mapped: Vec<_> = roles.iter().filter(|role| self.mapped.binary_search(role).is_ok()).copied().collect();
        mapped.sort_unstable();
        mapped
    }

    fn set(&mut self, member: DiscordUserId, mapped: Vec<RoleId>) {
        if mapped.is_empty() {
            self.members.remove(&member);
        } else {
            let roles = Some(self.sets.intern(mapped));
            self.members.insert(member, Member { roles, pass: self.pass });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_updated_before_their_server_was_listed_is_not_known() {
        let (guild, member, role) = (GuildId::from(1), DiscordUserId::from(2), RoleId::from(3));
        let mut known = KnownRoles::default();
        assert!(known.update(guild, member, &[role]), "nothing is known yet");
        let pass = known.begin(guild, &[]);
        known.keep(guild, pass, member);
        known.complete(guild, pass, &[]);
        assert!(known.update(guild, member, &[]), "the loss has to be stored");
        assert!(!known.update(guild, member, &[]), "and is known then");
        assert!(!known.update(guild, DiscordUserId::from(4), &[]), "everybody else has no role");
    }
}
