//! `dca-auth doctor`: is everything as it must be, and if not, what exactly is to be done.

use dca_commands::{checks, rest};
use dca_core::{Scope, guilds, mappings};
use dca_migration::{Migrator, MigratorTrait};
use serde::Serialize;

use crate::{App, Config, app};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// Not in use.
    Off,
    /// Wrong.
    Fail,
}

/// One answer.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
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
}

/// The database and its schema, looked at before anything else touches them.
pub async fn check_database(config: &Config) -> Vec<Finding> {
    let fix = "Check DCA_DATABASE_URL and that the server runs.";
    let db = match app::open_database(config).await {
        Ok(db) => db,
        Err(error) => return vec![Finding::fail("database", format!("{error:#}"), fix)],
    };
    let schema = match Migrator::get_pending_migrations(db.writer()).await {
        Ok(pending) if pending.is_empty() => Finding::ok("migrations", "all applied"),
        Ok(pending) => Finding::off("migrations", &format!("{} not applied yet; serve applies them", pending.len())),
        Err(error) => return vec![Finding::fail("database", error.to_string(), fix)],
    };
    vec![Finding::ok("database", if db.is_shared() { "answers (cluster)" } else { "answers (embedded)" }), schema]
}

/// The process cannot be built: a wrong master key, a folder that cannot be written.
#[must_use]
pub fn startup_failure(error: &anyhow::Error) -> Finding {
    Finding::fail("start", format!("{error:#}"), "Mend this first; nothing else could be looked at.")
}

/// Everything else that can be looked at from here.
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
        None => Finding::off("redis", "no DCA_REDIS_URL; limits and notifications are each process's own"),
        Some(Ok(())) => Finding::ok("redis", "answers"),
        Some(Err(why)) => {
            Finding::fail("redis", why, "Check DCA_REDIS_URL and that Redis runs; until then limits are per process.")
        }
    }
}

async fn check_mail(app: &App) -> Finding {
    match app.mailer.check_connection().await {
        None => Finding::off(
            "mail",
            app.mailer.disabled_reason().as_deref().unwrap_or_default().trim_start_matches("mail: "),
        ),
        Some(Ok(())) => Finding::ok("mail", "the mail server greets us and lets us in"),
        Some(Err(failure)) => Finding::fail("mail", failure.to_string(), failure.fix()),
    }
}

async fn check_discord(app: &App, discord: &rest::DiscordClient) -> Vec<Finding> {
    let members_allowed = match discord.application().await {
        Ok((_, allowed)) => allowed,
        Err(why) => return vec![Finding::fail("token", why.to_string(), checks::fix(&why))],
    };
    let mut findings = vec![Finding::ok("token", "accepted")];
    findings.push(if members_allowed {
        Finding::ok("intents", "Server Members is switched on")
    } else {
        let fix = "Developer Portal → Bot → Privileged Gateway Intents: switch on Server Members Intent.";
        Finding::fail("intents", "Server Members is switched off", fix)
    });
    match guilds::list_joined(&app.core).await {
        Ok(joined) if joined.is_empty() => {
            findings.push(Finding::off("servers", "the bot is in no server yet; see the invite link in the README"));
        }
        Ok(joined) => {
            for guild in joined {
                findings.extend(check_guild(app, discord, &guild).await);
            }
        }
        Err(error) => findings.push(Finding::fail("servers", error.to_string(), "Check the database.")),
    }
    findings
}

async fn check_guild(app: &App, discord: &rest::DiscordClient, guild: &guilds::Guild) -> Vec<Finding> {
    let at = |what: &str| format!("{what} in {} ({})", guild.name, guild.id);
    let access = match discord.bot_access(guild.id).await {
        Ok(access) => access,
        Err(why) => return vec![Finding::fail(at("access"), why.to_string(), checks::fix(&why))],
    };
    let missing = checks::missing_permissions(&access);
    let permissions = if missing.is_empty() {
        Finding::ok(at("permissions"), "all there")
    } else {
        let fix = "Server Settings → Roles → the bot's role: switch them on, or use the invite link again.";
        Finding::fail(at("permissions"), format!("missing: {}", missing.join(", ")), fix)
    };
    let scope = Scope::operator(guild.tenant_id);
    let mappings = match mappings::list(&app.core, &scope, guild.id).await {
        Ok(mappings) => mappings,
        Err(error) => {
            return vec![permissions, Finding::fail(at("role order"), error.to_string(), "Check the database.")];
        }
    };
    let wrong = mappings.iter().filter_map(|mapping| checks::mappable(&access, guild.id, mapping.role_id).err());
    let wrong: Vec<String> = wrong.map(|error| error.to_string()).collect();
    let order = if wrong.is_empty() {
        Finding::ok(at("role order"), format!("{} mapped roles below the bot's", mappings.len()))
    } else {
        Finding::fail(
            at("role order"),
            wrong.join(" "),
            "Server Settings → Roles: drag the bot's role above the mapped roles; unmap deleted ones.",
        )
    };
    vec![permissions, order]
}
