//! The JSON representation of the state, as Discord's API and gateway send it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::json::{merged, timestamp};
use super::state::{Channel, State};

impl State {
    pub fn gateway_url(&self) -> String {
        format!("ws://{}/gw", self.address)
    }

    /// A token in Discord's format: serenity reads the bot's id from the first part.
    pub fn token(&self) -> String {
        format!("{}.SimBot.not-a-real-token", BASE64.encode(self.bot.to_string()))
    }

    /// The application's flags: whether the Server Members Intent is on, for a bot in less than 100 servers.
    pub fn application_flags(&self) -> u64 {
        if self.disallow_intents { 0 } else { 1 << 15 }
    }

    pub fn user_json(&self, id: u64) -> Value {
        let is_bot = id == self.bot;
        json!({
            "id": id.to_string(), "username": self.users[&id].name, "bot": is_bot,
            "discriminator": if is_bot { "0042" } else { "0" }, "global_name": null,
            "avatar": null, "banner": null, "accent_color": null, "public_flags": 0, "flags": 0,
            "primary_guild": null, "avatar_decoration_data": null, "collectibles": null,
        })
    }

    pub fn me_json(&self) -> Value {
        let private = json!({
            "mfa_enabled": true, "locale": "en-US", "email": null, "verified": true,
        });
        merged(self.user_json(self.bot), private)
    }

    pub fn role_json(&self, guild: u64, id: u64) -> Value {
        let role = &self.guilds[&guild].roles[&id];
        let mut json = json!({
            "id": id.to_string(), "name": role.name, "position": role.position,
            "permissions": role.permissions.to_string(), "managed": role.managed, "color": 0,
            "colors": { "primary_color": 0, "secondary_color": null, "tertiary_color": null },
            "hoist": false, "mentionable": false, "icon": null, "unicode_emoji": null, "flags": 0,
        });
        if !role.tags.is_null() {
            json["tags"] = role.tags.clone();
        }
        json
    }

    pub fn roles_json(&self, guild: u64) -> Value {
        self.guilds[&guild].roles.keys().map(|role| self.role_json(guild, *role)).collect()
    }

    pub fn member_json(&self, guild: u64, user: u64) -> Value {
        let member = &self.guilds[&guild].members[&user];
        let roles: Vec<_> = member.roles.iter().map(u64::to_string).collect();
        json!({
            "user": self.user_json(user), "nick": null, "avatar": null, "banner": null,
            "roles": roles, "joined_at": timestamp(member.joined), "premium_since": null,
            "deaf": false, "mute": false, "flags": 0, "pending": false,
            "communication_disabled_until": null, "avatar_decoration_data": null,
        })
    }

    /// The member in `GUILD_MEMBER_ADD` and `GUILD_MEMBER_UPDATE`.
    pub fn member_event_json(&self, guild: u64, user: u64) -> Value {
        merged(self.member_json(guild, user), json!({ "guild_id": guild.to_string() }))
    }

    pub fn channel_json(&self, id: u64) -> Value {
        match &self.channels[&id] {
            Channel::Guild { guild, name, denied } => json!({
                "id": id.to_string(), "type": 0, "guild_id": guild.to_string(), "name": name,
                "position": 0, "parent_id": null, "topic": null, "nsfw": false, "flags": 0,
                "permission_overwrites":
                    [{ "id": guild.to_string(), "type": 0, "allow": "0", "deny": denied.to_string() }], "last_message_id": null, "rate_limit_per_user": 0,
            }),
            Channel::Dm { user } => json!({
                "id": id.to_string(), "type": 1, "flags": 0, "last_message_id": null,
                "recipients": [self.user_json(*user)],
            }),
        }
    }

    pub fn channels_json(&self, guild: u64) -> Value {
        let in_guild = |c: &Channel| matches!(c, Channel::Guild { guild: g, .. } if *g == guild);
        let ids = self.channels.iter().filter(|(_, channel)| in_guild(channel)).map(|(id, _)| *id);
        ids.map(|id| self.channel_json(id)).collect()
    }

    pub fn guild_json(&self, id: u64) -> Value {
        let guild = &self.guilds[&id];
        json!({
            "id": id.to_string(), "name": guild.name, "owner_id": guild.owner.to_string(),
            "roles": self.roles_json(id), "icon": null, "description": null, "home_header": null,
            "splash": null, "discovery_splash": null, "features": [], "banner": null,
            "application_id": null, "region": "deprecated", "afk_channel_id": null,
            "afk_timeout": 300, "system_channel_id": null, "system_channel_flags": 0,
            "widget_enabled": false, "widget_channel_id": null, "verification_level": 1,
            "default_message_notifications": 1, "mfa_level": 0, "explicit_content_filter": 0,
            "max_presences": null, "max_members": 500_000, "max_stage_video_channel_users": 50,
            "max_video_channel_users": 25, "vanity_url_code": null, "premium_tier": 0,
            "premium_subscription_count": 0, "preferred_locale": "en-US",
            "rules_channel_id": null, "safety_alerts_channel_id": null,
            "public_updates_channel_id": null, "premium_progress_bar_enabled": false,
            "nsfw": false, "nsfw_level": 0, "emojis": [], "stickers": [], "incidents_data": null,
        })
    }

    /// Without the presences intent, the bot is the only listed member.
    pub fn guild_create_json(&self, id: u64) -> Value {
        let guild = &self.guilds[&id];
        let details = json!({
            "joined_at": timestamp(guild.members[&self.bot].joined), "large": false,
            "unavailable": false, "member_count": guild.members.len(), "voice_states": [],
            "members": [self.member_json(id, self.bot)], "channels": self.channels_json(id),
            "threads": [], "presences": [], "stage_instances": [], "guild_scheduled_events": [],
            "soundboard_sounds": [],
        });
        merged(self.guild_json(id), details)
    }
}
