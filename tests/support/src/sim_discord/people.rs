//! Guilds and members, and the verbs of those who run and join them.

use serde_json::{Value, json};

use super::SimDiscord;
use super::state::{Channel, State};

/// A guild, as its admins handle it.
#[derive(Clone)]
pub struct SimGuild {
    pub(super) sim: SimDiscord,
    pub(super) id: u64,
}

impl SimGuild {
    fn change<T>(&self, change: impl FnOnce(&mut State, u64) -> T) -> T {
        self.sim.inner.change(|state| change(state, self.id))
    }

    /// The guild's id, which is also the id of its `@everyone` role.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The channel commands are run in.
    pub fn general(&self) -> u64 {
        self.change(|state, guild| state.guilds[&guild].general)
    }

    /// The guild's owner, who may do everything.
    pub fn owner(&self) -> SimMember {
        self.member(self.change(|state, guild| state.guilds[&guild].owner))
    }

    /// A handle to a member by user id.
    pub fn member(&self, user_id: u64) -> SimMember {
        SimMember { sim: self.sim.clone(), guild: self.id, user: user_id }
    }

    /// Makes a role the bot can hand out.
    pub fn role(&self, name: &str) -> u64 {
        self.change(|state, guild| state.add_role(guild, name, false, Value::Null))
    }

    /// Makes a role above the bot's own.
    pub fn role_above_bot(&self, name: &str) -> u64 {
        self.change(|state, guild| state.add_role(guild, name, true, Value::Null))
    }

    /// Makes a role that belongs to an integration (boosters), which nobody can hand out.
    pub fn managed_role(&self, name: &str) -> u64 {
        let booster = json!({ "premium_subscriber": null });
        self.change(|state, guild| state.add_role(guild, name, false, booster))
    }

    /// Deletes a role. Members lose it without an event of their own.
    pub fn delete_role(&self, role: u64) {
        self.change(|state, guild| {
            let known = state.guild_mut(guild);
            known.roles.remove(&role);
            known.members.values_mut().for_each(|member| member.roles.retain(|held| *held != role));
            let json = json!({ "guild_id": guild.to_string(), "role_id": role.to_string() });
            state.dispatch(Some(guild), "GUILD_ROLE_DELETE", &json);
        });
    }

    /// Makes a text channel.
    pub fn channel(&self, name: &str) -> u64 {
        self.change(|state, guild| {
            let id = state.id();
            state.channels.insert(id, Channel::Guild { guild, name: name.to_owned() });
            state.dispatch(Some(guild), "CHANNEL_CREATE", &state.channel_json(id));
            id
        })
    }

    /// A new user joins.
    pub fn join(&self, name: &str) -> SimMember {
        let user = self.change(|state, _| state.user(name));
        self.join_user(user)
    }

    /// A known user joins, or comes back.
    pub fn join_user(&self, user_id: u64) -> SimMember {
        self.change(|state, guild| {
            state.add_member(guild, user_id, Vec::new());
            let json = state.member_event_json(guild, user_id);
            state.dispatch(Some(guild), "GUILD_MEMBER_ADD", &json);
        });
        self.member(user_id)
    }

    /// That many new users join.
    pub fn join_many(&self, count: usize) -> Vec<SimMember> {
        (0..count).map(|n| self.join(&format!("member-{n}"))).collect()
    }

    /// That many members who hold `roles` were always here: no events.
    pub fn seed(&self, count: usize, roles: &[u64]) -> Vec<SimMember> {
        let users: Vec<u64> = self.change(|state, guild| {
            let users = (0..count).map(|n| {
                let user = state.user(&format!("member-{n}"));
                state.add_member(guild, user, roles.to_vec());
                user
            });
            users.collect()
        });
        users.into_iter().map(|user| self.member(user)).collect()
    }

    /// The bot is removed from the guild.
    pub fn kick_bot(&self) {
        self.change(|state, guild| {
            state.dispatch(Some(guild), "GUILD_DELETE", &json!({ "id": guild.to_string() }));
            state.guild_mut(guild).has_bot = false;
        });
    }

    /// The bot is invited again.
    pub fn invite_bot(&self) {
        self.change(|state, guild| {
            state.guild_mut(guild).has_bot = true;
            state.dispatch(Some(guild), "GUILD_CREATE", &state.guild_create_json(guild));
        });
    }

    /// The guild becomes unavailable: REST answers 503 and its events are lost.
    pub fn outage(&self) {
        self.change(|state, guild| {
            let json = json!({ "id": guild.to_string(), "unavailable": true });
            state.dispatch(Some(guild), "GUILD_DELETE", &json);
            state.guild_mut(guild).out = true;
        });
    }

    /// The outage ends.
    pub fn recover(&self) {
        self.change(|state, guild| {
            state.guild_mut(guild).out = false;
            state.dispatch(Some(guild), "GUILD_CREATE", &state.guild_create_json(guild));
        });
    }
}

/// A member of a guild.
#[derive(Clone)]
pub struct SimMember {
    pub(super) sim: SimDiscord,
    pub(super) guild: u64,
    pub(super) user: u64,
}

impl SimMember {
    fn change<T>(&self, change: impl FnOnce(&mut State, u64, u64) -> T) -> T {
        self.sim.inner.change(|state| change(state, self.guild, self.user))
    }

    /// The user's id.
    pub fn user_id(&self) -> u64 {
        self.user
    }

    /// The guild's id.
    pub fn guild_id(&self) -> u64 {
        self.guild
    }

    /// The user's name.
    pub fn name(&self) -> String {
        self.sim.inner.lock().users[&self.user].name.clone()
    }

    /// The roles the member holds.
    pub fn roles(&self) -> Vec<u64> {
        self.change(|state, guild, user| state.member_mut(guild, user).roles.clone())
    }

    /// An admin gives the member a role.
    pub fn grant(&self, role: u64) {
        let mut roles = self.roles();
        if !roles.contains(&role) {
            roles.push(role);
        }
        self.set_roles(&roles);
    }

    /// An admin takes a role away.
    pub fn take(&self, role: u64) {
        let mut roles = self.roles();
        roles.retain(|held| *held != role);
        self.set_roles(&roles);
    }

    /// An admin sets all roles at once.
    ///
    /// # Panics
    /// If the guild has no such role.
    pub fn set_roles(&self, roles: &[u64]) {
        self.change(|state, guild, user| state.set_roles(guild, user, roles.to_vec()));
    }

    /// Gives exactly these roles, and tells nobody: an event that got lost.
    ///
    /// # Panics
    /// If the guild has no such role.
    pub fn set_roles_silently(&self, roles: &[u64]) {
        self.change(|state, guild, user| state.member_mut(guild, user).roles = roles.to_vec());
    }

    /// Sends a `GUILD_MEMBER_UPDATE` of the present state, altered by `patch`.
    pub fn update_with(&self, patch: impl FnOnce(&mut Value)) {
        self.change(|state, guild, user| {
            let mut json = state.member_event_json(guild, user);
            patch(&mut json);
            state.dispatch(Some(guild), "GUILD_MEMBER_UPDATE", &json);
        });
    }

    /// The member leaves (or is kicked: the event is the same).
    pub fn leave(&self) {
        self.change(|state, guild, user| {
            state.guild_mut(guild).members.remove(&user);
            let json = json!({ "guild_id": guild.to_string(), "user": state.user_json(user) });
            state.dispatch(Some(guild), "GUILD_MEMBER_REMOVE", &json);
        });
    }

    /// The user takes no more DMs: opening one succeeds, sending fails with 50007.
    pub fn close_dms(&self) {
        self.set_dms(false);
    }

    /// The user takes DMs again.
    pub fn open_dms(&self) {
        self.set_dms(true);
    }

    fn set_dms(&self, open: bool) {
        self.change(|state, _, user| {
            state.user_mut(user).dms_open = open;
        });
    }

    /// The user's account gets an email address, which they have confirmed or not.
    pub fn set_email(&self, address: &str, verified: bool) {
        self.change(|state, _, user| {
            state.user_mut(user).email = Some((address.to_owned(), verified));
        });
    }

    /// The user removes the application in their settings: all that was granted to it ends.
    pub fn deauthorize(&self) {
        self.change(|state, _, user| state.oauth.withdraw(&user.to_string()));
    }

    /// Makes the member an administrator, as its interactions will show.
    pub fn promote(&self) {
        self.change(|state, guild, user| state.member_mut(guild, user).administrator = true);
    }
}
