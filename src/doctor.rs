//! `dca-auth doctor`: checks the installation and suggests a fix for each problem.

use dca_commands::{checks, reply, rest};
use dca_core::health::{self, DatabaseHealth};
use dca_core::mappings::{self, Mapping};
use dca_core::{Caller, ChannelId, GuildId, guilds};
use dca_migration::{Migrator, MigratorTrait};
use serde::Serialize;

use crate::{App, Config, app};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Off,
    Fail,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub check: String,
    pub outcome: Outcome,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), outcome: Outcome::Ok, detail: detail.into(), fix: None }
    }

    fn off(check: &str, detail: &str) -> Self {
        Self { outcome: Outcome::Off, ..Self::ok(check, detail) }
    }

    fn fail(check: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, fix: Some(fix.into()), ..Self::ok(check, detail) }
    }

    fn database_failure(check: impl Into<String>, error: &dca_core::Error) -> Self {
        Self::fail(check, error.to_string(), "Check that the database is reachable.")
    }
}

/// Checks the database and its schema, before anything else uses them.
pub async fn check_database(config: &Config) -> Vec<Finding> {
    let fix = "Check DCA_DATABASE_URL, and that the database server is running.";
    let db = match app::open_database(config).await {
        Ok(db) => db,
        Err(error) => return vec![Finding::fail("database", format!("{error:#}"), fix)],
    };
    let schema = match Migrator::get_pending_migrations(db.writer()).await {
        Ok(pending) if pending.is_empty() => Finding::ok("migrations", "all applied"),
        Ok(pending) => Finding::off("migrations", &format!("{} pending; `dca-auth serve` applies them", pending.len())),
        Err(error) => return vec![Finding::fail("database", error.to_string(), fix)],
    };
    if schema.outcome == Outcome::Ok && health::check(&db).await == DatabaseHealth::DiskFull {
        let fix = "Free some space on the disk of the database, or enlarge it.";
        return vec![Finding::fail("database", "its disk is full, so nothing can be written", fix), schema];
    }
    vec![Finding::ok("database", if db.is_shared() { "reachable (cluster)" } else { "reachable (embedded)" }), schema]
}

/// The finding if the process cannot be built, for example because of a wrong master key.
pub fn startup_failure(error: &anyhow::Error) -> Finding {
    let fix = "Fix this first, then run `dca-auth doctor` again. The other checks were skipped.";
    Finding::fail("start", format!("{error:#}"), fix)
}

pub async fn check_app(app: &App) -> Vec<Finding> {
    let mut findings = vec![check_redis(app).await, check_mail(app).await];
    match &app.discord {
        None => findings.push(Finding::off("discord", "no DCA_DISCORD_TOKEN; the bot is off")),
        Some(discord) => findings.extend(check_discord(app, discord).await),
    }
    findings
}

async fn check_redis(app: &App) -> Finding {
    match app::ping_redis(&app.config).await {
        None => Finding::off("redis", "no DCA_REDIS_URL; rate limits are not shared between instances"),
        Some(Ok(())) => Finding::ok("redis", "reachable"),
        Some(Err(error)) => Finding::fail(
            "redis",
            error,
            "Check DCA_REDIS_URL, and that Redis is running. Until then, each instance counts its own rate limits.",
        ),
    }
}

async fn check_mail(app: &App) -> Finding {
    match app.mailer.check_connection().await {
        None => {
            let reason = app.mailer.disabled_reason().unwrap_or_default();
            Finding::off("mail", reason.trim_start_matches("mail: "))
        }
        Some(Ok(())) => Finding::ok("mail", "connected to the mail server"),
        Some(Err(error)) => Finding::fail("mail", error.to_string(), error.fix()),
    }
}

async fn check_discord(app: &App, discord: &rest::DiscordClient) -> Vec<Finding> {
    let has_members_intent = match discord.application().await {
        Ok((_, is_enabled)) => is_enabled,
        Err(error) => return vec![Finding::fail("token", error.to_string(), checks::fix(&error))],
    };
    let mut findings = vec![Finding::ok("token", "accepted")];
    findings.push(if has_members_intent {
        Finding::ok("intents", "Server Members Intent is on")
    } else {
        let fix = "Turn on Server Members Intent in the Developer Portal → Bot → Privileged Gateway Intents.";
        Finding::fail("intents", "Server Members Intent is off", fix)
    });
    match guilds::list_joined(&app.core).await {
        Ok(joined) if joined.is_empty() => {
            let detail = "the bot is not in any server yet; invite it with the link in the README";
            findings.push(Finding::off("servers", detail));
        }
        Ok(joined) => {
            for guild in joined {
                findings.extend(check_guild(app, discord, &guild).await);
            }
        }
        Err(error) => findings.push(Finding::database_failure("servers", &error)),
    }
    findings
}

async fn check_guild(app: &App, discord: &rest::DiscordClient, guild: &guilds::Guild) -> Vec<Finding> {
    let check = |what: &str| format!("{what} in {} ({})", guild.name, guild.id);
    let roles = match discord.roles(guild.id).await {
        Ok(roles) => roles,
        Err(error) => return vec![Finding::fail(check("access"), error.to_string(), checks::fix(&error))],
    };
    let scope = Caller::operator(guild.tenant_id).scope();
    let mapped_roles = match mappings::list(&app.core, &scope, guild.id).await {
        Ok(mappings) => {
            let error = |mapping: &Mapping| {
                let error = checks::mappable(&roles, guild.id, mapping.role_id).err()?;
                Some(format!("{}: {}", mapping.role_id, reply::unmappable(error)))
            };
            let errors: Vec<String> = mappings.iter().filter_map(error).collect();
            if errors.is_empty() {
                Finding::ok(check("mapped roles"), format!("{} mapped, all exist", mappings.len()))
            } else {
                let fix = "In that server, use /mapping list to see them and /mapping remove to remove them.";
                Finding::fail(check("mapped roles"), errors.join(" "), fix)
            }
        }
        Err(error) => Finding::database_failure(check("mapped roles"), &error),
    };
    let Some(channel) = guild.log_channel_id else { return vec![mapped_roles] };
    vec![mapped_roles, check_log_channel(discord, guild.id, channel, check("log channel")).await]
}

async fn check_log_channel(
    discord: &rest::DiscordClient,
    guild: GuildId,
    channel: ChannelId,
    check: String,
) -> Finding {
    match discord.missing_permissions(guild, channel).await {
        Ok(Some(missing)) if missing.is_empty() => Finding::ok(check, "the bot can post"),
        Ok(Some(missing)) => {
            let fix = "Open the channel's settings → Permissions, add the bot, and allow them.";
            Finding::fail(check, format!("the bot lacks permissions in it: {}", missing.join(", ")), fix)
        }
        Ok(None) => {
            Finding::fail(check, "the channel was deleted", "In that server, use /setup to choose another one.")
        }
        Err(error) => Finding::fail(check, error.to_string(), checks::fix(&error)),
    }
}
