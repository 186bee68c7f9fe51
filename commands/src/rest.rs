//! Every outbound call to Discord's REST API.

use std::{collections::HashSet, sync::Arc, time::Duration};

use dca_core::Snowflake;
use serenity::{
    builder::{CreateAllowedMentions, CreateMessage},
    http::{Http, HttpBuilder, HttpError},
    model::{
        application::{ApplicationFlags, CurrentApplicationInfo},
        channel::Nonce,
        guild::{Member, Role},
        id::{ChannelId, GuildId, UserId},
    },
};

/// Members per page: Discord's maximum.
pub const PAGE: u64 = 1_000;

/// A call that did not succeed, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum DiscordError {
    /// What was asked for does not exist (404 with a code that says so).
    #[error("Discord does not know that {0}")]
    Unknown(&'static str),
    /// The member does not take messages from us: 50007, 50278.
    #[error("the member does not accept direct messages")]
    DmClosed,
    /// Opening direct messages too fast (40003), or flagged for it (20026): all of them must stop.
    #[error("Discord asks to stop opening direct messages")]
    DmLimited,
    /// Slow down for this long.
    #[error("Discord asks to wait")]
    RateLimited,
    /// The token is not accepted.
    #[error("Discord does not accept the bot token")]
    Unauthorized,
    /// The bot may not do that there; trying again changes nothing.
    #[error("the bot lacks access ({0})")]
    Forbidden(isize),
    /// Anything that may pass: no answer, 5xx.
    #[error("Discord did not answer: {0}")]
    Transient(String),
}

impl From<serenity::Error> for DiscordError {
    fn from(error: serenity::Error) -> Self {
        let serenity::Error::Http(HttpError::UnsuccessfulRequest(answer)) = &error else {
            return Self::Transient(brief(&error));
        };
        match (answer.status_code.as_u16(), answer.error.code) {
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

/// serenity's errors may quote an address; only their kind is kept.
fn brief(error: &serenity::Error) -> String {
    match error {
        serenity::Error::Http(HttpError::Request(error)) if error.is_timeout() => "timed out".to_owned(),
        serenity::Error::Http(HttpError::Request(_)) => "no connection".to_owned(),
        serenity::Error::Json(_) => "the answer cannot be read".to_owned(),
        _ => "unexpected answer".to_owned(),
    }
}

/// A role as mapping rules need it.
#[derive(Clone, Debug)]
pub struct RoleFacts {
    /// Its id.
    pub id: Snowflake,
    /// Its name.
    pub name: String,
    /// Whether an integration owns it.
    pub managed: bool,
    /// Its place: higher outranks; equal places are ordered by id, the lower id first.
    pub rank: (u16, std::cmp::Reverse<u64>),
    /// Permission bits.
    pub permissions: u64,
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
    /// Calls with this token. `api_url` stands in for `https://discord.com`; serenity's own limiter
    /// must be off then, because it ignores the stand-in while it is on.
    #[must_use]
    pub fn new(token: &str, api_url: Option<&str>, timeout: Duration) -> Self {
        let rest =
            Self { http: Arc::new(Http::new("")), token: token.into(), api_url: api_url.map(Into::into), timeout };
        Self { http: Arc::new(rest.client()), ..rest }
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
        let answer = tokio::time::timeout(self.timeout, call).await;
        answer.map_err(|_| DiscordError::Transient("timed out".to_owned()))?.map_err(DiscordError::from)
    }

    /// The application behind the token, and whether its portal allows the Server Members intent.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn application(&self) -> Result<(CurrentApplicationInfo, bool), DiscordError> {
        let info = self.call(self.http.get_current_application_info()).await?;
        let members = ApplicationFlags::GATEWAY_GUILD_MEMBERS | ApplicationFlags::GATEWAY_GUILD_MEMBERS_LIMITED;
        let allowed = info.flags.is_some_and(|flags| flags.intersects(members));
        Ok((info, allowed))
    }

    /// The bot's own user.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn bot_user(&self) -> Result<Snowflake, DiscordError> {
        Ok(self.call(self.http.get_current_user()).await?.id.get().into())
    }

    /// One page of a guild's members after this one, by rising id.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn members(
        &self,
        guild: Snowflake,
        after: Snowflake,
    ) -> Result<Vec<(Snowflake, Vec<Snowflake>)>, DiscordError> {
        let guild = GuildId::new(guild.into());
        let page = self.call(self.http.get_guild_members(guild, Some(PAGE), Some(after.into()))).await?;
        Ok(page.into_iter().map(|member| (member.user.id.get().into(), roles_of(&member))).collect())
    }

    /// One member's roles; `None` when Discord says that they are not in the guild.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn member(&self, guild: Snowflake, user: Snowflake) -> Result<Option<Vec<Snowflake>>, DiscordError> {
        let call = self.http.get_member(GuildId::new(guild.into()), UserId::new(user.into()));
        match self.call(call).await {
            Ok(member) => Ok(Some(roles_of(&member))),
            Err(DiscordError::Unknown("member")) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// A guild's roles.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn roles(&self, guild: Snowflake) -> Result<Vec<RoleFacts>, DiscordError> {
        let roles = self.call(self.http.get_guild_roles(GuildId::new(guild.into()))).await?;
        Ok(roles.iter().map(role_facts).collect())
    }

    /// Sends a member a direct message, once: the same `nonce` again within minutes is the same
    /// message.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn dm(&self, user: Snowflake, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let channel = self.call(UserId::new(user.into()).create_dm_channel(&self.http)).await?;
        let message = plain(text).nonce(Nonce::String(nonce.to_owned())).enforce_nonce(true);
        self.call(channel.id.send_message(&self.http, message)).await.map(drop)
    }

    /// The guild a channel belongs to.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn guild_of(&self, channel: Snowflake) -> Result<Option<Snowflake>, DiscordError> {
        let channel = self.call(self.http.get_channel(ChannelId::new(channel.into()))).await?;
        Ok(channel.guild().map(|channel| channel.guild_id.get().into()))
    }

    /// Posts a line in a channel; `nonce` as for [`DiscordClient::dm`].
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn line(&self, channel: Snowflake, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let message = plain(text).nonce(Nonce::String(nonce.to_owned())).enforce_nonce(true);
        self.call(ChannelId::new(channel.into()).send_message(&self.http, message)).await.map(drop)
    }
}

fn plain(text: &str) -> CreateMessage {
    CreateMessage::new().content(text).allowed_mentions(CreateAllowedMentions::new())
}

fn roles_of(member: &Member) -> Vec<Snowflake> {
    member.roles.iter().map(|role| role.get().into()).collect()
}

fn role_facts(role: &Role) -> RoleFacts {
    RoleFacts {
        id: role.id.get().into(),
        name: role.name.clone(),
        managed: role.managed,
        rank: (role.position, std::cmp::Reverse(role.id.get())),
        permissions: role.permissions.bits(),
    }
}

/// The bot's place in a guild: its highest role and all its permissions there.
#[derive(Clone, Debug)]
pub struct BotAccess {
    /// Every role of the guild.
    pub roles: Vec<RoleFacts>,
    /// The highest role the bot has.
    pub top_role: (u16, std::cmp::Reverse<u64>),
    /// Permission bits of the bot.
    pub permissions: u64,
}

impl DiscordClient {
    /// The bot's standing in a guild.
    ///
    /// # Errors
    /// See [`DiscordError`].
    pub async fn bot_access(&self, guild: Snowflake) -> Result<BotAccess, DiscordError> {
        let roles = self.roles(guild).await?;
        let bot = self.bot_user().await?;
        let mine: HashSet<_> = self.member(guild, bot).await?.unwrap_or_default().into_iter().chain([guild]).collect();
        let own = roles.iter().filter(|role| mine.contains(&role.id));
        let top_role = own.clone().map(|role| role.rank).max().unwrap_or((0, std::cmp::Reverse(u64::MAX)));
        let permissions = own.fold(0, |bits, role| bits | role.permissions);
        Ok(BotAccess { roles, top_role, permissions })
    }
}
