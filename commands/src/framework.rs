//! The commands, and what holds for all of them.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use poise::CreateReply;
use serenity::all::{
    Command, CreateCommand, Event, FullEvent, Http, Interaction, Permissions, Ready, ShardId, ShardInfo,
};
use serenity::all::{
    Shard, ShardManager, ShardManagerOptions, ShardMessenger, ShardRunner, ShardRunnerOptions, UserId,
};
use serenity::prelude::{Mutex, RwLock, TypeMap};
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::context::{CommandError, Context, error_text, interaction};
use crate::{bot::Bot, connection::INTENTS};
use crate::{component, key, license, mapping, reply, setup, sync, updates::GuildChange};

type FrameworkOptions = poise::FrameworkOptions<Arc<Bot>, CommandError>;

/// All slash commands. A new command is a file and an entry here. Only `/key` is for members who do not manage the
/// server.
fn commands() -> Vec<poise::Command<Arc<Bot>, CommandError>> {
    let mut commands = vec![license::license(), mapping::mapping(), setup::setup(), sync::sync()];
    for command in &mut commands {
        command.guild_only = true;
        command.default_member_permissions = Permissions::MANAGE_GUILD;
        command.required_permissions = Permissions::MANAGE_GUILD;
    }
    commands.insert(0, key::key());
    commands
}

/// Options for every command: deferred at once, ephemeral, without pings, panics caught.
fn options() -> FrameworkOptions {
    FrameworkOptions {
        commands: commands(),
        command_check: Some(|ctx| Box::pin(defer(ctx))),
        on_error: |error| Box::pin(respond_to_error(error)),
        allowed_mentions: Some(serenity::builder::CreateAllowedMentions::new()),
        event_handler: |framework, event| Box::pin(handle_event(framework, event)),
        initialize_owners: false,
        ..FrameworkOptions::default()
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
        error!(%error, "could not handle a gateway event");
        return;
    };
    if let poise::FrameworkError::CommandCheckFailed { error: Some(reason), .. } = &error {
        warn!(error = %reason, "command not run: Discord rejected the deferred response");
        return;
    }
    let text = match &error {
        poise::FrameworkError::Command { error, .. } => error_text(error, interaction(ctx)),
        poise::FrameworkError::MissingUserPermissions { .. } | poise::FrameworkError::PermissionFetchFailed { .. } => {
            reply::MISSING_PERMISSION.to_owned()
        }
        poise::FrameworkError::GuildOnly { .. } => reply::GUILD_ONLY.to_owned(),
        poise::FrameworkError::ArgumentParse { error, .. } => reply::bad_argument(&error.to_string()),
        _ => {
            error!(%error, command = %ctx.command().qualified_name, "a command failed");
            reply::fault(interaction(ctx))
        }
    };
    if let Err(error) = ctx.send(CreateReply::default().content(text).ephemeral(true)).await {
        warn!(%error, "could not send a response to Discord");
    }
}

/// Handles interactions that poise does not: components.
async fn handle_event(
    framework: poise::FrameworkContext<'_, Arc<Bot>, CommandError>,
    event: &FullEvent,
) -> Result<(), CommandError> {
    if let FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } = event {
        component::handle(framework.serenity_context, framework.user_data, choice).await?;
    }
    Ok(())
}

/// Handles the events of the gateway.
pub(crate) struct Framework {
    bot: Arc<Bot>,
    options: FrameworkOptions,
    context: serenity::all::Context,
    shard_manager: Arc<ShardManager>,
    /// Set by the first READY.
    bot_id: OnceLock<UserId>,
}

impl Framework {
    pub async fn new(bot: Arc<Bot>) -> serenity::Result<Arc<Self>> {
        let mut options = options();
        poise::set_qualified_names(&mut options.commands);
        let (context, shard_manager) = context(Arc::new(bot.discord.interactions())).await?;
        Ok(Arc::new(Self { bot, options, context, shard_manager, bot_id: OnceLock::new() }))
    }

    /// Handles an event without waiting: interactions in a task each, everything else in order.
    pub fn handle(self: &Arc<Self>, event: Event) {
        match event {
            Event::Ready(event) => self.handle_ready(&event.ready),
            Event::InteractionCreate(event) => {
                let (framework, interaction) = (self.clone(), event.interaction);
                tokio::spawn(async move { framework.interact(interaction).await });
            }
            other => self.bot.updates.push(&self.bot.core, &other),
        }
    }

    fn handle_ready(&self, ready: &Ready) {
        let updates = &self.bot.updates;
        updates.push_guild_change(GuildChange::Ready(ready.guilds.iter().map(|guild| guild.id.get().into()).collect()));
        // A reconciliation finds what happened before this session.
        updates.push_guild_change(GuildChange::Gap);
        let http = self.context.http.clone();
        http.set_application_id(ready.application.id);
        if self.bot_id.set(ready.user.id).is_ok() {
            tokio::spawn(register(http, poise::builtins::create_application_commands(&self.options.commands)));
        }
    }

    async fn interact(&self, interaction: Interaction) {
        let Some(&bot_id) = self.bot_id.get() else { return };
        let framework = poise::FrameworkContext {
            serenity_context: &self.context,
            bot_id,
            options: &self.options,
            user_data: &self.bot,
            shard_manager: &self.shard_manager,
        };
        Box::pin(poise::dispatch_event(framework, FullEvent::InteractionCreate { interaction })).await;
    }
}

/// Registers the slash commands, with retries.
async fn register(http: Arc<Http>, commands: Vec<CreateCommand>) {
    for pause in (0..10).map(|n| Duration::from_secs(1 << n)) {
        let Err(error) = Command::set_global_commands(&http, commands.clone()).await else { return };
        warn!(error = %CommandError::from(error), "could not register the slash commands; retrying");
        tokio::time::sleep(pause).await;
    }
    error!("could not register the slash commands; check status.discord.com, then restart");
}

/// A context for poise. serenity makes one only for a shard that is connected, so this connects a shard to a local
/// socket that closes at once; [`crate::connection`] is the connection to Discord.
async fn context(http: Arc<Http>) -> serenity::Result<(serenity::all::Context, Arc<ShardManager>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let ws_url = Arc::new(Mutex::new(format!("ws://{}", listener.local_addr()?)));
    let accept = async {
        if let Ok((stream, _)) = listener.accept().await {
            _ = tokio_tungstenite::accept_async(stream).await;
        }
        std::future::pending().await
    };
    let info = ShardInfo { id: ShardId(0), total: 1 };
    let shard = tokio::select! {
        shard = Shard::new(ws_url.clone(), "", info, INTENTS, None) => shard?,
        never = accept => never,
    };
    let data = Arc::new(RwLock::new(TypeMap::new()));
    let (manager, _) = ShardManager::new(ShardManagerOptions {
        data: data.clone(),
        event_handlers: Vec::new(),
        raw_event_handlers: Vec::new(),
        framework: Arc::default(),
        shard_index: 0,
        shard_init: 0,
        shard_total: 1,
        ws_url,
        http: http.clone(),
        intents: INTENTS,
        presence: None,
    });
    let runner = ShardRunner::new(ShardRunnerOptions {
        data: data.clone(),
        event_handlers: Vec::new(),
        raw_event_handlers: Vec::new(),
        framework: None,
        manager: manager.clone(),
        shard,
        http: http.clone(),
    });
    Ok((serenity::all::Context { data, shard: ShardMessenger::new(&runner), shard_id: info.id, http }, manager))
}
