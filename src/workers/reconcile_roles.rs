//! Reconciles roles: reads all members of every guild that has a role mapping, page by page.

use std::time::Duration;

use dca_commands::rest::{DiscordClient, DiscordError, PAGE};
use dca_core::entitlements::{self, reconcile::Difference, reconcile::Summary};
use dca_core::guilds::{self, Guild};
use dca_core::{DiscordUserId, GuildId, RoleId};
use dca_core::{mappings::reconcile::GuildReconciliation, workers};
use tracing::{info, warn};

use super::scheduled::ScheduledWorker;
use crate::App;

/// The worker. It runs on the instance that holds the gateway lease, so that events and reconciliation use the same
/// stamps; or in a process that never connects to the gateway.
pub const RECONCILE_ROLES: ScheduledWorker = ScheduledWorker {
    name: workers::RECONCILE_ROLES,
    interval: |app| app.config.discord.reconcile_interval,
    can_run: |app| match &app.bot {
        Some(bot) => bot.gateway_lease().is_some(),
        None => app.discord.is_some(),
    },
    run: |app| Box::pin(run(app)),
};

/// Reconciles all guilds. If a guild cannot be read completely, no license of it is revoked and it is read again later,
/// while the others keep their interval. If Discord answers for no guild, the run fails.
async fn run(app: &App) -> anyhow::Result<String> {
    let (mut read, mut failed, mut total) = (0, Vec::new(), Summary::default());
    match &app.bot {
        Some(bot) => {
            // A process that was frozen does not know yet that another one took over, and has missed updates.
            if let Some(lease) = bot.gateway_lease()
                && !workers::is_current(&app.core, &lease).await?
            {
                workers::schedule_in(&app.core, workers::RECONCILE_ROLES, Duration::ZERO).await?;
                return Ok("left to the instance that is connected to the gateway".to_owned());
            }
            bot.begin_reconcile();
        }
        // Another process receives the gateway events; continue after its stamps.
        None => entitlements::catch_up_stamps(&app.core).await?,
    }
    for guild in guilds::list_readable(&app.core).await? {
        match reconcile_guild(app, &guild).await {
            Ok(summary) => {
                read += 1;
                total = total.and(summary);
                guilds::record_read(&app.core, &guild).await?;
            }
            Err(error) => failed.push((guild, error)),
        }
    }
    if let Some(bot) = &app.bot {
        bot.end_reconcile();
    }
    let unread = failed.len();
    let is_refusal = |error: &anyhow::Error| {
        matches!(error.downcast_ref(), Some(DiscordError::Forbidden(_) | DiscordError::Unknown(_)))
    };
    let is_general = read == 0 && !failed.iter().any(|(_, error)| is_refusal(error));
    for (guild, error) in failed {
        let (id, error) = (guild.id, format!("{error:#}"));
        warn!(guild = %id, error, "could not read a guild completely; no license was revoked");
        if !is_general {
            let next = guilds::record_failed_read(&app.core, &guild, app.config.discord.reconcile_interval).await?;
            info!(guild = %id, %next, "the guild is read again later");
        }
    }
    anyhow::ensure!(unread == 0 || !is_general, "could not read any of {unread} guilds");
    Ok(format!("{read} guilds, {unread} not readable, {total:?}"))
}

async fn reconcile_guild(app: &App, guild: &Guild) -> anyhow::Result<Summary> {
    let (core, id, bot) = (&app.core, guild.id, app.bot.as_ref());
    let Some(discord) = &app.discord else { return Ok(Summary::default()) };
    let fence = bot.and_then(|bot| bot.gateway_lease());
    let begun = GuildReconciliation::begin(core, guild, fence, app.config.discord.dm_interval).await?;
    let mappings = begun.as_ref().map_or(&[][..], GuildReconciliation::mappings);
    let pass = bot.map(|bot| bot.reconcile_guild(id, mappings));
    let Some(mut reconciliation) = begun else {
        if let Some(pass) = pass {
            pass.complete(&[]);
        }
        return Ok(Summary::default());
    };
    let is_newer = |member| pass.as_ref().is_some_and(|pass| pass.is_newer(member));
    reconciliation.roles(core, &roles_of(discord, id).await?).await?;
    let mut last_member = DiscordUserId(0);
    loop {
        let page = with_retries(|| discord.members(id, last_member)).await?;
        for (member, roles) in &page {
            let mut listed = Some(roles.as_slice());
            if is_newer(*member) {
                reconciliation.skip(*member);
            } else if reconciliation.member(core, *member, roles).await? == Difference::Lost {
                listed = None;
            }
            if let Some(pass) = &pass {
                pass.list(*member, listed);
            }
        }
        match page.last() {
            Some((last, _)) if page.len() as u64 == PAGE => last_member = *last,
            _ => break,
        }
    }
    reconciliation.roles(core, &roles_of(discord, id).await?).await?;
    let (summary, unknown) = reconciliation.finish(core, is_newer).await?;
    if let Some(pass) = pass.as_ref().filter(|_| summary.blocked == 0) {
        pass.complete(&unknown);
    }
    if summary != Summary::default() {
        info!(guild = %id, ?summary, "reconciled a guild");
    }
    Ok(summary)
}

async fn roles_of(discord: &DiscordClient, guild: GuildId) -> Result<Vec<RoleId>, DiscordError> {
    with_retries(|| discord.roles(guild)).await
}

/// How long a reconciliation waits for a rate limit.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tries a read up to three times, so that one failed page does not fail the whole reconciliation.
async fn with_retries<T, F: Future<Output = Result<T, DiscordError>>>(
    mut read: impl FnMut() -> F,
) -> Result<T, DiscordError> {
    for pause in [1, 3] {
        match read().await {
            Err(DiscordError::Transient(_)) => tokio::time::sleep(Duration::from_secs(pause)).await,
            Err(DiscordError::RateLimited(wait)) => tokio::time::sleep(wait.min(LONGEST_PAUSE)).await,
            result => return result,
        }
    }
    read().await
}
