//! Everything that talks to Discord: the gateway, REST calls, one file per slash command, and the bot's
//! texts. This crate contains no HTTP server and no SQL.
//!
//! ```text
//! gateway: ordered callbacks -> UpdateBuffer -> dca_core::entitlements::observe
//! command: defer -> check permissions -> one call into core -> a text from `reply`
//! rest:    every outbound call to Discord
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dca_core::{Core, workers::Lease};
use futures::future::BoxFuture;
use poise::CreateReply;
use tokio::sync::watch;

pub mod checks;
pub mod gateway;
pub mod rest;

mod key;
mod license;
mod mapping;
pub mod reply;
mod setup;
mod sync;

pub use rest::DiscordClient;

/// The permissions the bot asks for in its invite link: View Channels, Send Messages, Manage Roles.
pub const PERMISSIONS: u64 = 1 << 10 | 1 << 11 | 1 << 28;

/// The status of this instance's gateway connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayStatus {
    /// Another instance holds the gateway lease; this one takes over when it expires.
    Standby,
    /// This instance holds the gateway lease and is connecting.
    Connecting,
    /// Connected; events arrive.
    Connected,
    /// Discord refuses the connection until an operator acts; contains what to do.
    Refused(String),
}

/// The bot: state shared by commands and workers.
pub struct Bot {
    /// The core services.
    pub core: Core,
    /// The client of Discord's REST API.
    pub discord: DiscordClient,
    /// How long the gateway lease lasts without being renewed.
    pub lease_duration: Duration,
    /// The status of the gateway connection.
    pub status: watch::Sender<GatewayStatus>,
    lease: Mutex<Option<Lease>>,
    updates: gateway::UpdateBuffer,
}

impl Bot {
    /// A bot that is not connected yet.
    #[must_use]
    pub fn new(core: Core, discord: DiscordClient, lease_duration: Duration) -> Arc<Self> {
        let (status, lease, updates) =
            (watch::Sender::new(GatewayStatus::Standby), Mutex::new(None), gateway::UpdateBuffer::default());
        Arc::new(Self { core, discord, lease_duration, status, lease, updates })
    }

    /// The gateway lease, while this instance holds it.
    #[must_use]
    pub fn gateway_lease(&self) -> Option<Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a reconciliation; see [`Bot::updated_since_reconcile`].
    pub fn begin_reconcile(&self) {
        self.updates.begin_reconcile();
    }

    /// Whether the gateway reported a member since the reconciliation began; if so, that update is newer
    /// than the member list.
    #[must_use]
    pub fn updated_since_reconcile(&self, guild: dca_core::Snowflake, member: dca_core::Snowflake) -> bool {
        self.updates.updated_since_reconcile(guild, member)
    }

    /// Returns when every buffered update is stored.
    pub async fn drained(&self) {
        self.updates.drained().await;
    }
}

/// Why a command failed: a refusal to show, or an error to log.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Core(#[from] dca_core::Error),
    #[error("Discord: {0}")]
    Discord(#[from] serenity::Error),
    #[error(transparent)]
    DiscordApi(#[from] rest::DiscordError),
}

type Context<'a> = poise::Context<'a, Arc<Bot>, CommandError>;

/// All slash commands. A new command is a file and a line here.
fn commands() -> Vec<poise::Command<Arc<Bot>, CommandError>> {
    vec![key::key(), license::license(), mapping::mapping(), setup::setup(), sync::sync()]
}

/// Options for every command: deferred at once, ephemeral, without pings, panics caught.
fn framework_options() -> poise::FrameworkOptions<Arc<Bot>, CommandError> {
    poise::FrameworkOptions {
        commands: commands(),
        command_check: Some(|ctx| Box::pin(defer(ctx))),
        on_error: |error| Box::pin(respond_to_error(error)),
        allowed_mentions: Some(serenity::builder::CreateAllowedMentions::new()),
        event_handler: |framework, event| Box::pin(gateway::handle(framework, event)),
        initialize_owners: false,
        ..poise::FrameworkOptions::default()
    }
}

/// Defers the response within Discord's limit of three seconds. If Discord rejects it, another instance
/// has responded or it is too late, and the command must not run.
async fn defer(ctx: Context<'_>) -> Result<bool, CommandError> {
    if let poise::Context::Application(application) = ctx
        && application.interaction_type == poise::CommandInteractionType::Command
    {
        application.defer_response(true).await?;
    }
    Ok(true)
}

/// Shows a refusal, or logs the error under the interaction id that the user sees.
async fn respond_to_error(error: poise::FrameworkError<'_, Arc<Bot>, CommandError>) {
    let Some(ctx) = error.ctx() else {
        tracing::error!(%error, "could not handle a gateway event");
        return;
    };
    if let poise::FrameworkError::CommandCheckFailed { error: Some(reason), .. } = &error {
        tracing::warn!(error = %reason, "command not run: Discord rejected the deferred response");
        return;
    }
    let text = match &error {
        poise::FrameworkError::Command { error, .. } => error_text(error, interaction(ctx)),
        poise::FrameworkError::MissingUserPermissions { .. } | poise::FrameworkError::PermissionFetchFailed { .. } => {
            reply::missing_permission()
        }
        poise::FrameworkError::GuildOnly { .. } => reply::guild_only(),
        poise::FrameworkError::ArgumentParse { error, .. } => reply::bad_argument(&error.to_string()),
        _ => {
            tracing::error!(%error, command = %ctx.command().qualified_name, "a command failed");
            reply::fault(interaction(ctx))
        }
    };
    if let Err(error) = ctx.send(CreateReply::default().content(text).ephemeral(true)).await {
        tracing::warn!(%error, "could not send a response to Discord");
    }
}

/// The text for an error. Anything but a refusal is logged under the interaction id that the user sees.
fn error_text(error: &CommandError, id: u64) -> String {
    match error {
        CommandError::Core(dca_core::Error::Refused(refusal)) => reply::refusal(refusal),
        CommandError::DiscordApi(error) => reply::discord_refused(error),
        CommandError::Core(_) | CommandError::Discord(_) => {
            tracing::error!(%error, interaction = id, "a command failed");
            reply::fault(id)
        }
    }
}

/// The caller, in the guild the command was called in.
async fn caller(ctx: Context<'_>) -> Result<dca_core::Caller, CommandError> {
    Ok(dca_core::Caller::in_guild(&ctx.data().core, guild(ctx), ctx.author().id.get().into()).await?)
}

/// The guild a command was called in; commands are guild-only.
fn guild(ctx: Context<'_>) -> dca_core::Snowflake {
    ctx.guild_id().map_or(0, serenity::model::id::GuildId::get).into()
}

/// The interaction id, shown to the user and logged.
fn interaction(ctx: Context<'_>) -> u64 {
    match ctx {
        poise::Context::Application(application) => application.interaction.id.get(),
        poise::Context::Prefix(prefix) => prefix.msg.id.get(),
    }
}

/// Runs core work as part of this interaction, so that its events carry the interaction id.
fn in_request<'a, T: 'a>(ctx: Context<'_>, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(dca_core::events::with_request_id(format!("interaction:{}", interaction(ctx)), work))
}

/// Autocompletes product names that contain the typed text.
async fn complete_product(ctx: Context<'_>, partial: &str) -> serenity::builder::CreateAutocompleteResponse {
    let typed = partial.to_lowercase();
    let known = match caller(ctx).await {
        Ok(caller) => dca_core::products::list(&ctx.data().core, &caller.scope).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let names = known.into_iter().map(|product| product.name).filter(|name| name.to_lowercase().contains(&typed));
    names.take(25).fold(serenity::builder::CreateAutocompleteResponse::new(), |response, name| {
        response.add_string_choice(name.clone(), name)
    })
}
