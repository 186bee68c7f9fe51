//! Outbound calls to Discord's REST API.

use std::{sync::Arc, time::Duration};

use dca_core::{ChannelId, Clock, DiscordUserId, GuildId, RoleId};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use serenity::http::{Http, HttpBuilder};
use serenity::model::application::{ApplicationFlags, CurrentApplicationInfo};
use serenity::model::channel::GuildChannel;
use serenity::model::guild::{Member, PartialGuild};
use serenity::model::{Permissions, gateway::BotGateway, id};

use crate::rate_limits::{self, RateLimits};

/// The permissions that the invite link requests: View Channels and Send Messages, for the log channel.
pub const PERMISSIONS: u64 = 1 << 10 | 1 << 11;

/// The link that invites the bot of an application to a server.
pub fn invite_link(application: u64) -> String {
    let (scopes, permissions) = ("bot+applications.commands", PERMISSIONS);
    format!("https://discord.com/oauth2/authorize?client_id={application}&scope={scopes}&permissions={permissions}")
}

/// Where the channel of a direct message is opened.
const DM_CHANNELS: &str = "/users/@me/channels";

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
    /// A rate limit was reached (429). The next request may be sent after this time.
    #[error("too many requests; the next one is possible in {} s", .0.as_secs_f64().ceil())]
    RateLimited(Duration),
    /// The bot token was rejected (401).
    #[error("Discord rejected the bot token")]
    Unauthorized,
    /// The bot lacks access (403, with Discord's code); retrying does not help.
    #[error("the bot lacks access ({0})")]
    Forbidden(i64),
    /// The request is invalid (400, with Discord's code), for example because of its recipient; retrying does not help.
    #[error("Discord refused the request ({0})")]
    Invalid(i64),
    /// A temporary failure: no response, 5xx.
    #[error("Discord is not available ({0})")]
    Transient(String),
}

impl DiscordError {
    /// The error of a response: what its JSON says, or its status if a proxy in between sent it.
    fn of(status: StatusCode, headers: &HeaderMap, body: &Value) -> Self {
        match (status.as_u16(), body["code"].as_i64().unwrap_or_default()) {
            (_, 50007 | 50278) => Self::DmClosed,
            (_, 40003 | 20026) => Self::DmLimited,
            (429, _) => Self::RateLimited(rate_limits::retry_after(headers, body)),
            (401, _) => Self::Unauthorized,
            (_, 10003) => Self::Unknown("channel"),
            (_, 10004) => Self::Unknown("server"),
            (_, 10007 | 10013) => Self::Unknown("member"),
            // 0 is a general error, 40333 a block by Discord's own proxy.
            (403, code) if !matches!(code, 0 | 40333) => Self::Forbidden(code),
            (400, code) if code != 0 => Self::Invalid(code),
            (status, _) => Self::Transient(format!("status {status}")),
        }
    }

    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Unauthorized => "Get a new token in Developer Portal → Bot → Reset Token and set DCA_DISCORD_TOKEN.",
            Self::Forbidden(_) | Self::Unknown(_) => "Invite the bot again with the link in the README.",
            Self::RateLimited(_) | Self::DmLimited => "Wait a few minutes, then try again.",
            Self::DmClosed | Self::Invalid(_) | Self::Transient(_) => {
                "Try again. If it keeps failing, check status.discord.com."
            }
        }
    }
}

impl From<reqwest::Error> for DiscordError {
    /// The text of a [`reqwest::Error`] may contain a URL.
    fn from(error: reqwest::Error) -> Self {
        Self::Transient(if error.is_timeout() { "timed out" } else { "no connection" }.to_owned())
    }
}

/// Calls to Discord, as the bot.
#[derive(Clone)]
pub struct DiscordClient {
    http: reqwest::Client,
    limits: Arc<RateLimits>,
    token: Arc<str>,
    api_url: Option<String>,
}

impl DiscordClient {
    /// A client with this token. `api_url` replaces `https://discord.com`. Fails if the system has no TLS.
    pub fn new(token: &str, api_url: Option<&str>, timeout: Duration, clock: Clock) -> reqwest::Result<Self> {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let roots = roots.map(|der| reqwest::Certificate::from_der(der)).collect::<reqwest::Result<Vec<_>>>()?;
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("DiscordBot (DCA-Auth, ", env!("CARGO_PKG_VERSION"), ")"))
            .timeout(timeout)
            .build()?;
        let limits = Arc::new(RateLimits::new(clock));
        Ok(Self { http, limits, token: token.into(), api_url: api_url.map(Into::into) })
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A client for the responses to interactions, which Discord exempts from the limits of the bot.
    pub(crate) fn interactions(&self) -> Http {
        let builder = HttpBuilder::new(&self.token).ratelimiter_disabled(true);
        self.api_url.iter().fold(builder, HttpBuilder::proxy).build()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DiscordError> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a request, unless a rate limit is known to forbid it.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, DiscordError> {
        let bucket = rate_limits::bucket(&method, path);
        if let Some(wait) = self.limits.wait_for(&bucket) {
            return Err(DiscordError::RateLimited(wait));
        }
        let base = self.api_url.as_deref().unwrap_or("https://discord.com");
        let request = self.http.request(method, format!("{base}/api/v10{path}"));
        let request = request.header(AUTHORIZATION, format!("Bot {}", self.token));
        let request = body.iter().fold(request, RequestBuilder::json);
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await?;
        if !status.is_success() {
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            self.limits.learn(bucket, status, &headers, &body);
            return Err(DiscordError::of(status, &headers, &body));
        }
        self.limits.learn(bucket, status, &headers, &Value::Null);
        // Without a value in between: a page of members is large.
        let body = if bytes.is_empty() { &b"null"[..] } else { &*bytes };
        serde_json::from_slice(body).map_err(|_| invalid_response())
    }

    /// The address of the gateway, and how many sessions may be started.
    pub(crate) async fn gateway(&self) -> Result<BotGateway, DiscordError> {
        self.get("/gateway/bot").await
    }

    /// The application of the token, and whether the Server Members intent is enabled for it.
    pub async fn application(&self) -> Result<(CurrentApplicationInfo, bool), DiscordError> {
        let info: CurrentApplicationInfo = self.get("/oauth2/applications/@me").await?;
        let members = ApplicationFlags::GATEWAY_GUILD_MEMBERS | ApplicationFlags::GATEWAY_GUILD_MEMBERS_LIMITED;
        let allowed = info.flags.is_some_and(|flags| flags.intersects(members));
        Ok((info, allowed))
    }

    /// The bot's own user.
    pub async fn bot_user(&self) -> Result<DiscordUserId, DiscordError> {
        Ok(self.get::<Object>("/users/@me").await?.id.get().into())
    }

    /// One page of a guild's members with their roles, by ascending id, starting after `after`.
    pub async fn members(
        &self,
        guild: GuildId,
        after: DiscordUserId,
    ) -> Result<Vec<(DiscordUserId, Vec<RoleId>)>, DiscordError> {
        let page: Vec<MemberJson> = self.get(&format!("/guilds/{guild}/members?limit={PAGE}&after={after}")).await?;
        Ok(page.into_iter().map(|member| (member.user.id.get().into(), roles_of(&member))).collect())
    }

    /// A member's roles; `None` if they are not in the guild.
    pub async fn member(&self, guild: GuildId, user: DiscordUserId) -> Result<Option<Vec<RoleId>>, DiscordError> {
        match self.get(&format!("/guilds/{guild}/members/{user}")).await {
            Ok(member) => Ok(Some(roles_of(&member))),
            Err(DiscordError::Unknown("member")) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// A guild's roles.
    pub async fn roles(&self, guild: GuildId) -> Result<Vec<RoleId>, DiscordError> {
        let roles: Vec<Object> = self.get(&format!("/guilds/{guild}/roles")).await?;
        Ok(roles.iter().map(|role| role.id.get().into()).collect())
    }

    /// The permissions that the bot needs to post in a channel and lacks there, by name; `None` if the guild has no such
    /// channel.
    pub async fn missing_permissions(
        &self,
        guild: GuildId,
        channel: ChannelId,
    ) -> Result<Option<Vec<&'static str>>, DiscordError> {
        let channels: Vec<GuildChannel> = self.get(&format!("/guilds/{guild}/channels")).await?;
        let Some(channel) = channels.into_iter().find(|known| known.id.get() == u64::from(channel)) else {
            return Ok(None);
        };
        let bot = self.bot_user().await?;
        let mut member: Value = self.get(&format!("/guilds/{guild}/members/{bot}")).await?;
        // serenity's type has this member, Discord's response does not.
        member["guild_id"] = guild.to_string().into();
        let member: Member = parse(member)?;
        let guild: PartialGuild = self.get(&format!("/guilds/{guild}")).await?;
        let granted = guild.user_permissions_in(&channel, &member);
        Ok(Some((Permissions::from_bits_truncate(PERMISSIONS) - granted).get_permission_names()))
    }

    /// How long no direct message can be sent because of a rate limit; `None` if one can.
    pub fn wait_before_dm(&self) -> Option<Duration> {
        self.limits.wait_for(&rate_limits::bucket(&Method::POST, DM_CHANNELS))
    }

    /// Sends a member a direct message. Discord sends it once, even if it is repeated with the same
    /// `nonce` within minutes.
    pub async fn dm(&self, user: DiscordUserId, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let recipient = json!({ "recipient_id": user.to_string() });
        let channel: Object = self.call(Method::POST, DM_CHANNELS, Some(recipient)).await?;
        self.post(channel.id.get().into(), text, nonce).await
    }

    /// Posts a message in a channel; `nonce` as for [`DiscordClient::dm`].
    pub async fn post(&self, channel: ChannelId, text: &str, nonce: &str) -> Result<(), DiscordError> {
        let message = json!({
            "content": text, "nonce": nonce, "enforce_nonce": true, "allowed_mentions": { "parse": [] },
        });
        self.call(Method::POST, &format!("/channels/{channel}/messages"), Some(message)).await.map(|IgnoredAny| ())
    }
}

fn parse<T: DeserializeOwned>(body: Value) -> Result<T, DiscordError> {
    serde_json::from_value(body).map_err(|_| invalid_response())
}

fn invalid_response() -> DiscordError {
    DiscordError::Transient("invalid response".to_owned())
}

/// The parts of Discord's objects that are used. Other parts may change.
#[derive(Deserialize)]
struct Object {
    id: id::GenericId,
}

#[derive(Deserialize)]
struct MemberJson {
    user: Object,
    roles: Vec<id::RoleId>,
}

fn roles_of(member: &MemberJson) -> Vec<RoleId> {
    member.roles.iter().map(|role| role.get().into()).collect()
}
