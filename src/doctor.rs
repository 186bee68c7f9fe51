//! `dca-auth doctor`: checks the installation and suggests a fix for each problem.

use dca_commands::{reply, rest};
use dca_core::health::{self, DatabaseHealth};
use dca_core::mappings::{self, Mapping};
use dca_core::{Caller, ChannelId, Clock, Core, GuildId, accounts::admin, guilds, key_rotation};
use serde::Serialize;

use crate::app::{self, Inputs};
use crate::{config::Config, outbound::mail::Mailer, telemetry};

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

const DISK_FULL: &str = "its disk is full, so nothing can be written";
const FREE_SPACE: &str = "Free some space on the disk of the database, or enlarge it.";

/// Runs all checks. Changes nothing: creates no folder, file or table, and sends no message.
pub async fn run(config: &Config) -> Vec<Finding> {
    _ = rustls::crypto::ring::default_provider().install_default();
    let (mut findings, core) = check_data(config).await;
    findings.push(check_redis(config).await);
    findings.push(check_mail(config).await);
    if let Some(core) = &core {
        findings.push(check_second_factors(core).await);
        findings.push(check_signing_keys(core).await);
    }
    match app::discord_client(config, &Clock::system()) {
        Ok(None) => findings.push(Finding::off("discord", "no DCA_DISCORD_TOKEN; the bot is off")),
        Ok(Some(discord)) => findings.extend(check_discord(core.as_ref(), &discord).await),
        Err(error) => findings.push(Finding::fail("discord", format!("{error:#}"), "Check DCA_DISCORD_TOKEN.")),
    }
    if let Some(core) = core {
        // Otherwise SQLite may leave its temporary files behind. The findings do not depend on it.
        _ = core.db.close().await;
    }
    findings
}

/// Checks the folder, the database, its schema and the master key. Returns the core if all of them can be used.
async fn check_data(config: &Config) -> (Vec<Finding>, Option<Core>) {
    let dir = &config.storage.data_dir;
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let kind = if config.storage.sqlite_file().is_some() { "SQLite" } else { "PostgreSQL" };
    let mut findings = vec![Finding::ok("settings", format!("data folder {}, database {kind}", dir.display()))];
    let pending = match app::require_data(config).await {
        Ok(pending) => pending,
        Err(error) if app::is_disk_full(&error) => {
            findings.push(Finding::fail("database", DISK_FULL, FREE_SPACE));
            return (findings, None);
        }
        Err(error) => {
            let fix = "Pass the service's folder with --data-dir and its settings with --env-file. For PostgreSQL, check \
                       that the server is running, and DCA_DATABASE_URL, for example postgres://user:password@localhost/dca.";
            findings.push(Finding::fail("database", format!("{error:#}"), fix));
            return (findings, None);
        }
    };
    findings.push(Finding::ok("database", "reachable"));
    if pending > 0 {
        findings.push(Finding::off("migrations", &format!("{pending} pending; `dca-auth serve` applies them")));
        return (findings, None);
    }
    findings.push(Finding::ok("migrations", "all applied"));
    let opened = async {
        let inputs = Inputs::system(telemetry::recorder()?.handle());
        app::open_core(config, &inputs, app::open_database(config).await?).await
    };
    match opened.await {
        Ok(core) => {
            if health::check(&core.db).await == DatabaseHealth::DiskFull {
                findings.push(Finding::fail("database", DISK_FULL, FREE_SPACE));
            }
            findings.push(Finding::ok("master key", "matches the database"));
            (findings, Some(core))
        }
        Err(error) => {
            let fix =
                "Use the master key that belongs to this database: master.key in the data folder, or DCA_MASTER_KEY.";
            findings.push(Finding::fail("master key", format!("{error:#}"), fix));
            (findings, None)
        }
    }
}

async fn check_redis(config: &Config) -> Finding {
    match app::ping_redis(config).await {
        None => Finding::off("redis", "no DCA_REDIS_URL; rate limits are not shared between instances"),
        Some(Ok(())) => Finding::ok("redis", "reachable"),
        Some(Err(error)) => Finding::fail(
            "redis",
            error,
            "Check that Redis is running, and DCA_REDIS_URL, for example redis://localhost:6379. Until then, each instance \
             counts its own rate limits.",
        ),
    }
}

async fn check_mail(config: &Config) -> Finding {
    let mailer = match Mailer::new(config) {
        Ok(mailer) => mailer,
        Err(error) => return Finding::fail("mail", format!("{error:#}"), "Correct the setting, then check again."),
    };
    match mailer.check_connection().await {
        None => {
            let reason = mailer.disabled_reason().unwrap_or_default();
            Finding::off("mail", reason.trim_start_matches("mail: "))
        }
        Some(Ok(())) => Finding::ok("mail", "connected to the mail server"),
        Some(Err(error)) => Finding::fail("mail", error.to_string(), error.fix()),
    }
}

async fn check_second_factors(core: &Core) -> Finding {
    let users = match admin::list_without_second_factor(core).await {
        Ok(users) => users,
        Err(error) => return Finding::database_failure("second factor", &error),
    };
    if users.is_empty() {
        return Finding::ok("second factor", "every account that administers others has one");
    }
    let names: Vec<_> = users.iter().map(|user| format!("{} ({})", user.label(), user.role)).collect();
    let fix = "Let them set one up (POST /auth/2fa/setup). DCA_REQUIRE_SECOND_FACTOR=admins requires it.";
    let detail = format!("accounts that administer others without one: {}", names.join(", "));
    Finding { fix: Some(fix.to_owned()), ..Finding::off("second factor", &detail) }
}

async fn check_signing_keys(core: &Core) -> Finding {
    let status = match key_rotation::status(core).await {
        Ok(status) => status,
        Err(error) => return Finding::database_failure("signing keys", &error),
    };
    let place = if status.is_online { "in the database" } else { "exported" };
    let (rotation, end) = (status.next_rotation.date_naive(), status.list_expires_at.date_naive());
    let detail = format!("root key {place}, next signing key by {rotation}, list of signing keys valid until {end}");
    let fix = "Sign a new list of the signing keys: dca-auth keys publish --root FILE";
    match status.is_publication_due {
        false => Finding::ok("signing keys", detail),
        true if status.list_expires_at > core.clock.now() => {
            Finding { fix: Some(fix.to_owned()), ..Finding::off("signing keys", &detail) }
        }
        true => Finding::fail("signing keys", detail, fix),
    }
}

async fn check_discord(core: Option<&Core>, discord: &rest::DiscordClient) -> Vec<Finding> {
    let (application, has_members_intent) = match discord.application().await {
        Ok((info, is_enabled)) => (info.id.get(), is_enabled),
        Err(error) => return vec![Finding::fail("token", error.to_string(), error.fix())],
    };
    let mut findings = vec![Finding::ok("token", "accepted")];
    findings.push(if has_members_intent {
        Finding::ok("intents", "Server Members Intent is on")
    } else {
        let fix = "Turn on Server Members Intent in the Developer Portal → Bot → Privileged Gateway Intents.";
        Finding::fail("intents", "Server Members Intent is off", fix)
    });
    let Some(core) = core else {
        findings.push(Finding::off("servers", "not checked without the database"));
        return findings;
    };
    match guilds::list_joined(core).await {
        Ok(joined) if joined.is_empty() => {
            let detail = format!("the bot is not in any server yet; invite it: {}", rest::invite_link(application));
            findings.push(Finding::off("servers", &detail));
        }
        Ok(joined) => {
            for guild in joined {
                findings.extend(check_guild(core, discord, &guild).await);
            }
        }
        Err(error) => findings.push(Finding::database_failure("servers", &error)),
    }
    findings
}

async fn check_guild(core: &Core, discord: &rest::DiscordClient, guild: &guilds::Guild) -> Vec<Finding> {
    let check = |what: &str| format!("{what} in {} ({})", guild.name, guild.id);
    let roles = match discord.roles(guild.id).await {
        Ok(roles) => roles,
        Err(error) => return vec![Finding::fail(check("access"), error.to_string(), error.fix())],
    };
    let scope = Caller::operator(guild.tenant_id).scope();
    let mapped_roles = match mappings::list(core, &scope, guild.id).await {
        Ok(mappings) => {
            let error = |mapping: &Mapping| {
                let error = reply::check_mappable(&roles, guild.id, mapping.role_id).err()?;
                Some(format!("{}: {error}", mapping.role_id))
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
        Err(error) => Finding::fail(check, error.to_string(), error.fix()),
    }
}
