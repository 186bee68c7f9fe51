//! Outbound calls to Discord's REST API.

use std::{sync::Arc, time::Duration};

use dca_core::{ChannelId, DiscordUserId, GuildId, RoleId};
use serenity::builder::{CreateAllowedMentions, CreateMessage};
use serenity::http::{Http, HttpBuilder, HttpError};
use serenity::model::application::{ApplicationFlags, CurrentApplicationInfo};
use serenity::model::{Permissions, channel::Nonce, guild::Member, id};

/// The permissions that the invite link requests: View Channels and Send Messages, for the log channel.
pub const PERMISSIONS: u64 = 1 << 10 | 1 << 11;

/// Members per page: Discord's maximum.
pub const PAGE: u64 = 1_000;

/// Why a call failed, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum DiscordError {
    /// The object does not exist (404 with a code that says so).
    #[error("Discord found no such {0}")]
    Unknown(&'static str),
    /// The member does not accept messages from the bot: 50007, 50278.
    #[error("the member does not accept direct messages")]
    DmClosed,
    /// The bot opens direct messages too fast (40003), or was flagged for it (20026). All of them must pause.
    #[error("Discord does not allow new direct messages for now")]
    DmLimited,
    /// The rate limit was exceeded (429).
    #[error("too many requests")]
    RateLimited,
    /// The bot token was rejected (401).
    #[error("Discord rejected the bot token")]
    Unauthorized,
    /// The bot lacks access (403, with Discord's code); retrying does not help.
    #[error("the bot lacks access ({0})")]
    Forbidden(isize),
    /// A temporary failure: no response, 5xx.
    #[error("Discord is not available ({0})")]
    Transient(String),
}

impl From<serenity::Error> for DiscordError {
    fn from(error: serenity::Error) -> Self {
        let serenity::Error::Http(HttpError::UnsuccessfulRequest(response)) = &error else {
            return Self::Transient(brief(&error));
        };
        match (response.status_code.as_u16(), response.error.code) {
            (_, 50007 | 50278) => Self::DmClosed,
            (_, 40003 | 20026) => Self::DmLimited,
            (429, _) => Self::RateLimited,
            (401, _) => Self::Unauthorized,
            (_, 10003) => Self::Unknown("channel"),
            (_, 10004) => Self::Unknown("server"),
            (_, 10007 | 10013) => Self::Unknown("member"),
            (403, code) => Self::Forbidden(code),
            (status, _) => Self::Transient(format!("status {status}")),
        }
    }
}

/// The kind of a serenity error; its text may contain a URL.
fn brief(error: &serenity::Error) -> String {
    match error {
        serenity::Error::Http(HttpError::Request(error)) if error.is_timeout() => "timed out".to_owned(),
        serenity::Error::Http(HttpError::Request(_)) => "no connection".to_owned(),
        serenity::Error::Json(_) => "invalid response".to_owned(),
        _ => "unexpected error".to_owned(),
    }
}

/// Calls to Discord, as the bot.
#[derive(Clone)]
pub struct DiscordClient {
    http: Arc<Http>,
    token: Arc<str>,
    api_url: Option<String>,
    timeout: Duration,
}

impl DiscordClient {
    /// A client with this token. `api_url` replaces `https://discord.com`; serenity's rate limiter is off
    /// then, because it would ignore the replacement.
    pub fn new(token: &str, api_url: Option<&str>, timeout: Duration) -> Self {
        let client =
            Self { http: Arc::new(Http::new("")), token: token.into(), api_url: api_url.map(Into::into), timeout };
        Self { http: Arc::new(client.client()), ..client }
    }

    /// A client for serenity's gateway and interactions.
    pub(crate) fn client(&self) -> Http {
        let builder = HttpBuilder::new(&self.token);
        match &self.api_url {
            Some(url) => builder.proxy(url).ratelimiter_disabled(true).build(),
            None => builder.build(),
        }
    }

    async fn call<T>(&self, call: impl Future<Output = serenity::Result<T>>) -> Result<T, DiscordError> {
        let result = tokio::time::timeout(self.timeout, call).await;
        result.map_err(|_| DiscordError::Transient("timed out".to_owned()))?.map_err(DiscordError::from)
    }

    /// The application of the token, and whether the Server Members intent is enabled for it.
    pub async fn application(&self) -> Result<(CurrentApplicationInfo, bool), DiscordError> {
        let info = self.call(self.http.get_current_application_info()).await?;
        let members = ApplicationFlags::GATEWAY_GUILD_MEMBERS | ApplicationFlags::GATEWAY_GUILD_MEMBERS_LIMITED;
        let allowed = info.flags.is_some_and(|flags| flags.intersects(members));
        Ok((info, allowed))
    }

    /// The bot's own user.
    pub async fn bot_user(&self) -> Result<DiscordUserId, DiscordError> {
        Ok(self.call(self.http.get_current_user()).await?.id.get().into())
    }

    /// One page of a guild's members with their roles, by ascending id, starting after `after`.
    pub async fn members(
        &self,
        guild: GuildId,
        after: DiscordUserId,
    ) -> Result<Vec<(DiscordUserId, Vec<RoleId>)>, DiscordError> {
        let guild = id::GuildId::new(guild.into());
        let page = self.call(self.http.get_guild_members(guild, Some(PAGE), Some(after.into()))).await?;
        Ok(page.into_iter().map(|member| (member.user.id.get().into(), roles_of(&member))).collect())
    }

    /// A member's roles; `None` if they are not in the guild.
    pub async fn member(&self, guild: GuildId, user: DiscordUserId) -> Result<Option<Vec<RoleId>>, DiscordError> {
        let call = self.http.get_member(id::GuildId::new(guild.into()), id::UserId::new(user.into()));
        match self.call(call).await {
            Ok(member) => Ok(Some(roles_of(&member))),
            Err(DiscordError::Unknown("member")) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// A guild's roles.
    pub async fn roles(&self, guild: GuildId) -> Result<Vec<RoleId>, DiscordError> {
        let roles = self.call(self.http.get_guild_roles(id::GuildId::new(guild.into()))).await?;
        Ok(roles.iter().map(|role| role.id.get().into()).collect())
    }

    /// The permissions that the bot needs to post in a channel and lacks there, by name; `None` if the guild has no such
    /// channel.
    pub async fn missing_permissions(
        &self,
        guild: GuildId,
        channel: ChannelId,
    ) -> Result<Option<Vec<&'static str>>, DiscordError> {
        let (guild, channel) = (id::GuildId::new(guild.into()), id::ChannelId::new(channel.into()));
        let channels = self.call(self.http.get_channels(guild)).await?;
        let Some(channel) = channels.into_iter().find(|known| known.id == channel) else { return Ok(None) };
        let bot = self.call(self.http.get_current_user()).await?.id;
        let bot = self.call(self.http.get_member(guild, bot)).await?;
        let granted = self.call(self.http.get_guild(guild)).await?.user_permissions_in(&channel, &bot);
        Ok(Some((Permissions::from_bits_truncate(PERMISSIONS) - granted).get_permission_names()))
    }

    /// Sends a member a direct message. Discord sends it once, even if it is repeated with the same
    /// `nonce` within minutes.
    pub async fn dm(&self, user: DiscordUserId, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let channel = self.call(id::UserId::new(user.into()).create_dm_channel(&self.http)).await?;
        self.call(channel.id.send_message(&self.http, once(text, nonce))).await.map(drop)
    }

    /// Posts a message in a channel; `nonce` as for [`DiscordClient::dm`].
    pub async fn line(&self, channel: ChannelId, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let message = once(text, nonce);
        self.call(id::ChannelId::new(channel.into()).send_message(&self.http, message)).await.map(drop)
    }
}

/// A message without pings that Discord sends once.
fn once(text: &str, nonce: &str) -> CreateMessage {
    let message = CreateMessage::new().content(text).allowed_mentions(CreateAllowedMentions::new());
    message.nonce(Nonce::String(nonce.to_owned())).enforce_nonce(true)
}

fn roles_of(member: &Member) -> Vec<RoleId> {
    member.roles.iter().map(|role| role.get().into()).collect()
}
