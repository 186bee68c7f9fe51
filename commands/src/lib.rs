//! All of Discord in one room: the gateway, REST, one file per slash command, and every sentence the
//! bot says. Nothing here knows HTTP servers or SQL.
//!
//! ```text
//! gateway: ordered callbacks -> updates -> dca_core::entitlements::observe
//! a command: defer -> who may -> one call into core -> a sentence from `reply`
//! rest:     every outbound call to Discord
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

/// Whether this instance hears Discord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayStatus {
    /// Another instance holds the gateway; this one takes over when it falls silent.
    Standby,
    /// This instance holds the gateway and is connecting.
    Connecting,
    /// Events arrive.
    Connected,
    /// Discord refuses us until an operator acts; says what to do.
    Refused(String),
}

/// The bot: what commands and workers share.
pub struct Bot {
    /// The product.
    pub core: Core,
    /// Calls to Discord.
    pub discord: DiscordClient,
    /// How long the gateway lease lasts without being renewed.
    pub lease_duration: Duration,
    /// Whether events arrive.
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

    /// A full pass begins: see [`Bot::updated_since_reconcile`].
    pub fn begin_reconcile(&self) {
        self.updates.begin_reconcile();
    }

    /// Whether the gateway spoke of a member since the full pass began: its word is newer than the
    /// list's.
    #[must_use]
    pub fn updated_since_reconcile(&self, guild: dca_core::Snowflake, member: dca_core::Snowflake) -> bool {
        self.updates.updated_since_reconcile(guild, member)
    }

    /// Returns when everything buffered so far is stored.
    pub async fn drained(&self) {
        self.updates.drained().await;
    }
}

/// What went wrong in a command: a refusal to say, or a fault to log.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Core(#[from] dca_core::Error),
    #[error("Discord: {0}")]
    Discord(#[from] serenity::Error),
    #[error(transparent)]
    Rest(#[from] rest::DiscordError),
}

type Context<'a> = poise::Context<'a, Arc<Bot>, CommandError>;

/// Everything the bot can be told to do. A new command is a file and a line here.
fn commands() -> Vec<poise::Command<Arc<Bot>, CommandError>> {
    vec![key::key(), license::license(), mapping::mapping(), setup::setup(), sync::sync()]
}

/// The same framework_options for every command: deferred at once, ephemeral, nobody pinged, panics caught.
fn framework_options() -> poise::FrameworkOptions<Arc<Bot>, CommandError> {
    poise::FrameworkOptions {
        commands: commands(),
        command_check: Some(|ctx| Box::pin(defer(ctx))),
        on_error: |error| Box::pin(answer_failure(error)),
        allowed_mentions: Some(serenity::builder::CreateAllowedMentions::new()),
        event_handler: |framework, event| Box::pin(gateway::handle(framework, event)),
        initialize_owners: false,
        ..poise::FrameworkOptions::default()
    }
}

/// Answers within Discord's three seconds that an answer is coming. A defer that Discord refuses means
/// that another instance answers, or that it is too late: the command must not run then.
async fn defer(ctx: Context<'_>) -> Result<bool, CommandError> {
    if let poise::Context::Application(application) = ctx
        && application.interaction_type == poise::CommandInteractionType::Command
    {
        application.defer_response(true).await?;
    }
    Ok(true)
}

/// Says a refusal, logs a fault; the member sees the id that the log carries.
async fn answer_failure(error: poise::FrameworkError<'_, Arc<Bot>, CommandError>) {
    let Some(ctx) = error.ctx() else {
        tracing::error!(%error, "a gateway event was not handled");
        return;
    };
    if let poise::FrameworkError::CommandCheckFailed { error: Some(why), .. } = &error {
        tracing::warn!(error = %why, "a command was not run: Discord did not take our first answer");
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
        tracing::warn!(%error, "an answer did not reach Discord");
    }
}

/// A refusal in its own words; anything else is logged under the id the member sees.
fn error_text(failure: &CommandError, id: u64) -> String {
    match failure {
        CommandError::Core(dca_core::Error::Refused(refusal)) => reply::refusal(refusal),
        CommandError::Rest(why) => reply::discord_refused(why),
        CommandError::Core(_) | CommandError::Discord(_) => {
            tracing::error!(error = %failure, interaction = id, "a command failed");
            reply::fault(id)
        }
    }
}

/// Who calls, in the guild they call from.
async fn caller(ctx: Context<'_>) -> Result<dca_core::Caller, CommandError> {
    Ok(dca_core::Caller::in_guild(&ctx.data().core, guild(ctx), ctx.author().id.get().into()).await?)
}

/// The guild a command was called in; commands are guild-only.
fn guild(ctx: Context<'_>) -> dca_core::Snowflake {
    ctx.guild_id().map_or(0, serenity::model::id::GuildId::get).into()
}

/// The interaction's id: what a member may quote and the log carries.
fn interaction(ctx: Context<'_>) -> u64 {
    match ctx {
        poise::Context::Application(application) => application.interaction.id.get(),
        poise::Context::Prefix(prefix) => prefix.msg.id.get(),
    }
}

/// Runs core work as part of this interaction: its events carry the interaction's id.
fn in_request<'a, T: 'a>(ctx: Context<'_>, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(dca_core::events::in_request(format!("interaction:{}", interaction(ctx)), work))
}

/// Product names that contain what was typed so far.
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
