//! Guilds and members, and the actions of admins and users.

use std::sync::Arc;

use serde_json::{Value, json};

use super::state::{Channel, Inner, Role, State};

/// A handle to a guild.
#[derive(Clone)]
pub struct SimGuild {
    pub(super) inner: Arc<Inner>,
    pub(super) id: u64,
}

impl SimGuild {
    fn change<T>(&self, change: impl FnOnce(&mut State, u64) -> T) -> T {
        self.inner.change(|state| change(state, self.id))
    }

    /// The guild's id, which is also the id of its `@everyone` role.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The channel in which commands are run.
    pub fn general(&self) -> u64 {
        self.change(|state, guild| state.guilds[&guild].general)
    }

    /// The guild's owner, who has all permissions.
    pub fn owner(&self) -> SimMember {
        self.member(self.change(|state, guild| state.guilds[&guild].owner))
    }

    /// A handle to a member by user id.
    pub fn member(&self, user_id: u64) -> SimMember {
        SimMember { inner: Arc::clone(&self.inner), guild: self.id, user: user_id }
    }

    /// Creates a role that the bot can assign.
    pub fn role(&self, name: &str) -> u64 {
        self.change(|state, guild| state.add_role(guild, name, false, Value::Null))
    }

    /// Creates a role above the bot's role.
    pub fn role_above_bot(&self, name: &str) -> u64 {
        self.change(|state, guild| state.add_role(guild, name, true, Value::Null))
    }

    /// Creates a managed role (for boosters), which cannot be assigned.
    pub fn managed_role(&self, name: &str) -> u64 {
        let booster = json!({ "premium_subscriber": null });
        self.change(|state, guild| state.add_role(guild, name, false, booster))
    }

    /// Deletes a role. Members lose it without a member update event.
    pub fn delete_role(&self, role: u64) {
        self.change(|state, guild| {
            let guild_state = state.guild_mut(guild);
            guild_state.roles.remove(&role);
            guild_state.members.values_mut().for_each(|member| member.roles.retain(|other| *other != role));
            let json = json!({ "guild_id": guild.to_string(), "role_id": role.to_string() });
            state.dispatch(Some(guild), "GUILD_ROLE_DELETE", &json);
        });
    }

    /// Creates a text channel.
    pub fn channel(&self, name: &str) -> u64 {
        self.change(|state, guild| {
            let id = state.id();
            state.channels.insert(id, Channel::Guild { guild, name: name.to_owned(), denied: 0 });
            state.dispatch(Some(guild), "CHANNEL_CREATE", &state.channel_json(id));
            id
        })
    }

    /// Denies everyone these permissions in a channel.
    ///
    /// # Panics
    /// If it is not a channel of a guild.
    pub fn deny(&self, channel: u64, permissions: u64) {
        self.change(|state, _| match state.channels.get_mut(&channel) {
            Some(Channel::Guild { denied, .. }) => *denied = permissions,
            _ => panic!("SimDiscord: {channel} is not a channel of a guild"),
        });
    }

    /// The role of this name, ignoring case.
    pub fn role_named(&self, name: &str) -> Option<u64> {
        let has_name = |role: &Role| role.name.eq_ignore_ascii_case(name);
        self.change(|state, guild| {
            state.guilds[&guild].roles.iter().find(|(_, role)| has_name(role)).map(|(id, _)| *id)
        })
    }

    /// The member of this name, ignoring case.
    pub fn member_named(&self, name: &str) -> Option<SimMember> {
        let has_name = |state: &State, user: &u64| state.users[user].name.eq_ignore_ascii_case(name);
        let found =
            |state: &mut State, guild| state.guilds[&guild].members.keys().copied().find(|user| has_name(state, user));
        self.change(found).map(|user| self.member(user))
    }

    /// A new user joins.
    pub fn join(&self, name: &str) -> SimMember {
        let user = self.change(|state, _| state.user(name));
        self.join_user(user)
    }

    /// An existing user joins or rejoins.
    pub fn join_user(&self, user_id: u64) -> SimMember {
        self.change(|state, guild| {
            state.add_member(guild, user_id, Vec::new());
            let json = state.member_event_json(guild, user_id);
            state.dispatch(Some(guild), "GUILD_MEMBER_ADD", &json);
        });
        self.member(user_id)
    }

    /// `count` new users join.
    pub fn join_many(&self, count: usize) -> Vec<SimMember> {
        (0..count).map(|n| self.join(&format!("member-{n}"))).collect()
    }

    /// Adds `count` members with `roles` without events.
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

    /// Removes the bot from the guild.
    pub fn kick_bot(&self) {
        self.change(|state, guild| {
            state.dispatch(Some(guild), "GUILD_DELETE", &json!({ "id": guild.to_string() }));
            state.guild_mut(guild).has_bot = false;
        });
    }

    /// Invites the bot again.
    pub fn invite_bot(&self) {
        self.change(|state, guild| {
            state.guild_mut(guild).has_bot = true;
            state.dispatch(Some(guild), "GUILD_CREATE", &state.guild_create_json(guild));
        });
    }

    /// Starts an outage of the guild: REST returns 503 and its events are lost.
    pub fn outage(&self) {
        self.change(|state, guild| {
            let json = json!({ "id": guild.to_string(), "unavailable": true });
            state.dispatch(Some(guild), "GUILD_DELETE", &json);
            state.guild_mut(guild).unavailable = true;
        });
    }

    /// Ends the outage.
    pub fn recover(&self) {
        self.change(|state, guild| {
            state.guild_mut(guild).unavailable = false;
            state.dispatch(Some(guild), "GUILD_CREATE", &state.guild_create_json(guild));
        });
    }
}

/// A handle to a member of a guild.
#[derive(Clone)]
pub struct SimMember {
    pub(super) inner: Arc<Inner>,
    pub(super) guild: u64,
    pub(super) user: u64,
}

impl SimMember {
    fn change<T>(&self, change: impl FnOnce(&mut State, u64, u64) -> T) -> T {
        self.inner.change(|state| change(state, self.guild, self.user))
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
        self.inner.lock().users[&self.user].name.clone()
    }

    /// The member's roles.
    pub fn roles(&self) -> Vec<u64> {
        self.change(|state, guild, user| state.member_mut(guild, user).roles.clone())
    }

    /// Adds a role.
    pub fn grant(&self, role: u64) {
        let mut roles = self.roles();
        if !roles.contains(&role) {
            roles.push(role);
        }
        self.set_roles(&roles);
    }

    /// Removes a role.
    pub fn take(&self, role: u64) {
        let mut roles = self.roles();
        roles.retain(|other| *other != role);
        self.set_roles(&roles);
    }

    /// Replaces all roles.
    ///
    /// # Panics
    /// If the guild has no such role.
    pub fn set_roles(&self, roles: &[u64]) {
        self.change(|state, guild, user| state.set_roles(guild, user, roles.to_vec()));
    }

    /// Replaces all roles without an event.
    ///
    /// # Panics
    /// If the guild has no such role.
    pub fn set_roles_silently(&self, roles: &[u64]) {
        self.change(|state, guild, user| state.member_mut(guild, user).roles = roles.to_vec());
    }

    /// Sends a `GUILD_MEMBER_UPDATE` with the current state, changed by `patch`.
    pub fn update_with(&self, patch: impl FnOnce(&mut Value)) {
        self.change(|state, guild, user| {
            let mut json = state.member_event_json(guild, user);
            patch(&mut json);
            state.dispatch(Some(guild), "GUILD_MEMBER_UPDATE", &json);
        });
    }

    /// The member leaves or is kicked; the event is the same.
    pub fn leave(&self) {
        self.change(|state, guild, user| {
            state.guild_mut(guild).members.remove(&user);
            let json = json!({ "guild_id": guild.to_string(), "user": state.user_json(user) });
            state.dispatch(Some(guild), "GUILD_MEMBER_REMOVE", &json);
        });
    }

    /// The user closes their DMs: opening one succeeds, sending fails with 50007.
    pub fn close_dms(&self) {
        self.set_dms(false);
    }

    /// The user opens their DMs again.
    pub fn open_dms(&self) {
        self.set_dms(true);
    }

    fn set_dms(&self, open: bool) {
        self.change(|state, _, user| {
            state.user_mut(user).dms_open = open;
        });
    }

    /// Sets the user's email address and whether it is verified.
    pub fn set_email(&self, address: &str, verified: bool) {
        self.change(|state, _, user| {
            state.user_mut(user).email = Some((address.to_owned(), verified));
        });
    }

    /// The user deauthorizes the application, which revokes all their grants.
    pub fn deauthorize(&self) {
        self.change(|state, _, user| state.oauth.revoke_all(&user.to_string()));
    }

    /// Makes the member an administrator.
    pub fn promote(&self) {
        self.change(|state, guild, user| state.member_mut(guild, user).administrator = true);
    }
}
